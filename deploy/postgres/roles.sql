-- A role for each service that uses the state database, and what it may do there. For psql, as the
-- owner of the tables, when `pop3-connector state migrate` has made them; again after each upgrade.
-- It says the same however often it is run.
--
--   psql -v fetcher=PASSWORD -v deliverer=PASSWORD -v postmaster=PASSWORD -f roles.sql
--
-- The owner alone may alter, make or drop anything. Parser and rewriter have no role: they do not
-- use the database. Names of roles are those of the services; they are the whole server's.

\set ON_ERROR_STOP on
\set QUIET on
set client_min_messages = warning;

select format('create role %I', name)
from unnest(array['fetcher', 'deliverer', 'postmaster']) as service(name)
where not exists (select from pg_roles where rolname = name) \gexec

alter role fetcher with login nosuperuser nocreatedb nocreaterole noreplication noinherit password :'fetcher';
alter role deliverer with login nosuperuser nocreatedb nocreaterole noreplication noinherit password :'deliverer';
alter role postmaster with login nosuperuser nocreatedb nocreaterole noreplication noinherit password :'postmaster';

begin;

-- What every role of the server could do here.
select format('revoke all on database %I from public', current_database()) \gexec
select format('grant connect on database %I to fetcher, deliverer, postmaster', current_database()) \gexec
select format('revoke all on schema %I from public', current_schema()) \gexec
select format('grant usage on schema %I to fetcher, deliverer, postmaster', current_schema()) \gexec

-- What an earlier version of this file granted.
select format('revoke all on all tables in schema %I from public, fetcher, deliverer, postmaster', current_schema()) \gexec

-- What is not there (yet) is passed over: an older version's tables may be fewer.
select format('grant %s on %I to %I', may, tablename, role)
from (values
    ('fetcher', 'schema_version', 'select'),
    ('deliverer', 'schema_version', 'select'),
    ('postmaster', 'schema_version', 'select'),
    -- Leases on accounts and on messages in hand are in one table.
    ('fetcher', 'lease', 'select, insert, update, delete'),
    ('deliverer', 'lease', 'select, insert, update, delete'),
    ('fetcher', 'uidl', 'select, insert, update, delete'),
    ('fetcher', 'message', 'select, insert, update, delete'),
    ('fetcher', 'account', 'select, insert, update, delete'),
    ('fetcher', 'trouble', 'select, insert, update, delete'),
    ('fetcher', 'quirk', 'select, insert, update, delete'),
    -- Encrypted; of accounts, and of destinations.
    ('fetcher', 'oauth_token', 'select, insert, update'),
    ('deliverer', 'oauth_token', 'select, insert, update'),
    ('postmaster', 'oauth_token', 'select, insert, update, delete'),
    -- It prunes what is old, and adds what is to count as delivered.
    ('fetcher', 'delivered', 'select (id, destination, recipient, at), insert, delete'),
    ('fetcher', 'installation', 'select, insert, update'),
    -- What was delivered is never changed, nor forgotten, by who delivers.
    ('deliverer', 'delivered', 'select, insert'),
    -- Whether the queues are those of this database.
    ('deliverer', 'installation', 'select (id, asked, doubted)'),
    ('deliverer', 'account', 'select (held, choice)'),
    -- The commands "accounts" and "account".
    ('postmaster', 'account', 'select, insert, update'),
    ('postmaster', 'trouble', 'select'),
    ('postmaster', 'installation', 'update (doubted)')
) as granted(role, tablename, may)
join pg_tables using (tablename)
where schemaname = current_schema() \gexec

commit;
