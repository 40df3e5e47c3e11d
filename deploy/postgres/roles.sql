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

grant select on schema_version to fetcher, deliverer, postmaster;

-- Leases on accounts and on messages in hand are in one table.
grant select, insert, update, delete on lease to fetcher, deliverer;

grant select, insert, update, delete on uidl, message, account, trouble, quirk to fetcher;
-- It prunes what is old.
grant select (id, destination, recipient, at), delete on delivered to fetcher;

-- What was delivered is never changed, nor forgotten, by who delivers.
grant select, insert on delivered to deliverer;

-- The command "accounts".
grant select on account, trouble to postmaster;

commit;
