"""The suite that every database has to pass."""

from tests.unit.state.choices import Choices
from tests.unit.state.deliveries import Deliveries
from tests.unit.state.leases import Leases
from tests.unit.state.schedule import Schedule
from tests.unit.state.standing import Standing
from tests.unit.state.tokens import Tokens
from tests.unit.state.trouble import Trouble
from tests.unit.state.uid_ledger import Ledger
from tests.unit.state.values import Values


class StateSuite(Leases, Deliveries, Ledger, Schedule, Standing, Trouble, Values, Choices, Tokens):
    """What holds on every database. A subclass brings a fixture ``url``: an empty database."""
