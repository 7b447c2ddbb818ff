-- Times are milliseconds UTC. Columns that hold JSON hold it as text. Values above a size are kept in `outputs`; the
-- bit mask `large` of the row says which (runs: 1 input, 2 trigger, 4 output, 8 ending; step_runs: 1 output, 2 data;
-- signals: 1 data).
--
-- Checks of three values or more are chains of OR: for `IN`, SQLite builds a table of the values each time that it writes
-- a row, which took longer than all the rest of writing it.

CREATE TABLE properties (
    name TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

CREATE TABLE workflows (
    name TEXT PRIMARY KEY,
    current_version INTEGER NOT NULL CHECK (current_version > 0),
    enabled INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    deleted_at INTEGER,
    next_number INTEGER NOT NULL DEFAULT 1,
    description TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A rowid table: its rows are long.
CREATE TABLE workflow_versions (
    workflow TEXT NOT NULL REFERENCES workflows (name),
    version INTEGER NOT NULL,
    media TEXT NOT NULL CHECK (media IN ('yaml', 'json')),
    created_at INTEGER NOT NULL,
    document TEXT NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (workflow, version)
) STRICT;

CREATE TABLE runs (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL
        CHECK (state = 'QUEUED' OR state = 'RUNNING' OR state = 'WAITING' OR state = 'SUCCEEDED' OR
            state = 'FAILED' OR state = 'CANCELLED'),
    generation INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    owner TEXT,
    due_at INTEGER,
    suspect INTEGER NOT NULL CHECK (suspect BETWEEN 0 AND 3),
    priority INTEGER NOT NULL,
    start_at INTEGER,
    trigger_type TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    idempotency_key TEXT,
    request_hash TEXT,
    lineage TEXT,
    -- 1: what is due at `due_at` needs a slot of the executor; without one the run is looked at at `latest_at`.
    needs_slot INTEGER NOT NULL CHECK (needs_slot IN (0, 1)),
    latest_at INTEGER,
    -- Its place in `concurrency`, whether it holds it, and the limit that it asked under.
    place TEXT,
    placed INTEGER NOT NULL CHECK (placed IN (0, 1)),
    place_limit INTEGER,
    undone INTEGER NOT NULL CHECK (undone IN (0, 1)),
    -- For a child run; keys are given in order, so a parent's key is never given again while it has children.
    parent_key INTEGER,
    -- 0: the parent waits for the end; 1: it was told of it; 2: it ended first; NULL: nobody waits.
    told INTEGER CHECK (told = 0 OR told = 1 OR told = 2),
    large INTEGER NOT NULL,
    error TEXT,
    parent TEXT,
    ending TEXT,
    trigger TEXT,
    input TEXT,
    output TEXT,
    UNIQUE (workflow, number),
    FOREIGN KEY (workflow, version) REFERENCES workflow_versions (workflow, version)
) STRICT;

-- lease_steps, next_due: work that nobody holds.
CREATE INDEX runs_due ON runs (suspect, needs_slot, priority DESC, due_at, key, workflow) WHERE due_at IS NOT NULL;
-- The same while no slot is free.
CREATE INDEX runs_latest ON runs (latest_at, key, workflow, suspect) WHERE latest_at IS NOT NULL;
-- rescue_leases, register_node: what a process holds.
CREATE INDEX runs_owner ON runs (owner) WHERE owner IS NOT NULL;
-- start_run: an Idempotency-Key starts one run.
CREATE UNIQUE INDEX runs_idempotency ON runs (workflow, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- A run ends or asks for a place: who holds one, and who waits for one.
CREATE INDEX runs_placed ON runs (place, key, state) WHERE placed = 1 AND state IN ('QUEUED', 'RUNNING', 'WAITING');
CREATE INDEX runs_queued ON runs (place, priority DESC)
    WHERE placed = 0 AND state = 'QUEUED' AND place_limit IS NOT NULL;
-- list_children, and the end of a parent.
CREATE INDEX runs_children ON runs (parent_key, told) WHERE told <> 1;
CREATE INDEX runs_untold ON runs (told) WHERE told = 0 AND state IN ('SUCCEEDED', 'FAILED', 'CANCELLED');
CREATE INDEX runs_orphans ON runs (told) WHERE told = 2 AND state IN ('QUEUED', 'RUNNING', 'WAITING');
-- list_runs by state.
CREATE INDEX runs_state ON runs (state);
-- list_runs by time, prune_runs.
CREATE INDEX runs_created ON runs (created_at);

CREATE TABLE step_runs (
    run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
    path TEXT NOT NULL,
    step TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state = 'QUEUED' OR state = 'RUNNING' OR state = 'WAITING' OR state = 'SUCCEEDED' OR
            state = 'FAILED' OR state = 'SKIPPED' OR state = 'CANCELLED'),
    generation INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    output TEXT,
    error TEXT,
    data TEXT,
    available_at INTEGER,
    ready_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    stage TEXT,
    large INTEGER NOT NULL,
    PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID;

-- stats: steps that could run now.
CREATE INDEX step_runs_ready ON step_runs (available_at) WHERE state = 'QUEUED';

CREATE TABLE attempts (
    run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
    path TEXT NOT NULL,
    generation INTEGER NOT NULL,
    number INTEGER NOT NULL CHECK (number > 0),
    id TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state = 'RUNNING' OR state = 'SUCCEEDED' OR state = 'FAILED' OR state = 'TIMED_OUT' OR
            state = 'LOST' OR state = 'CANCELLED'),
    lease_owner TEXT NOT NULL,
    lease_expires_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    finished_at INTEGER,
    error TEXT,
    PRIMARY KEY (run, path, generation, number)
) STRICT, WITHOUT ROWID;

-- renew_leases, rescue_leases: attempts that hold a lease.
CREATE INDEX attempts_leased ON attempts (lease_owner) WHERE state = 'RUNNING';

-- Sent to a run and not taken yet; `key` is the order in which they came.
CREATE TABLE signals (
    key INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    data TEXT,
    sent_at INTEGER NOT NULL,
    large INTEGER NOT NULL,
    UNIQUE (run, id)
) STRICT;

-- Values above a size; `path` is empty for those of the run itself, and the id for those of signals.
CREATE TABLE outputs (
    run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
    path TEXT NOT NULL,
    field TEXT NOT NULL
        CHECK (field = 'input' OR field = 'trigger' OR field = 'output' OR field = 'ending' OR field = 'data' OR
            field = 'signal'),
    encoding TEXT NOT NULL CHECK (encoding IN ('text', 'zlib')),
    body ANY NOT NULL,
    PRIMARY KEY (run, path, field)
) STRICT;

CREATE TABLE dead_letters (
    id TEXT PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
    state TEXT NOT NULL CHECK (state = 'OPEN' OR state = 'RETRIED' OR state = 'DISCARDED'),
    path TEXT NOT NULL,
    generation INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    closed_at INTEGER,
    error TEXT NOT NULL,
    input TEXT
) STRICT;

-- retry_run, prune_runs.
CREATE INDEX dead_letters_run ON dead_letters (run);
-- list_dead_letters by state.
CREATE INDEX dead_letters_state ON dead_letters (state, id);

-- AUTOINCREMENT: followers of the journal resume after an id, so none may come twice, also after prune_runs.
CREATE TABLE journal (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    entries TEXT NOT NULL
) STRICT;

-- list_journal of one run.
CREATE INDEX journal_run ON journal (run);

-- ---- triggers

-- The triggers of the current versions of workflows that are not deleted.
CREATE TABLE triggers (
    workflow TEXT NOT NULL REFERENCES workflows (name),
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- For the ends of runs: the workflow, and the states as a list.
    source TEXT,
    states TEXT,
    PRIMARY KEY (workflow, name)
) STRICT, WITHOUT ROWID;

-- The end of a run.
CREATE INDEX triggers_source ON triggers (source) WHERE source IS NOT NULL;

-- What time fires. A row stays when its trigger is gone, so that no slot fires again if it comes back. Times are those
-- of the wall clock; `cursor` is the last slot that was decided on.
CREATE TABLE schedules (
    id INTEGER PRIMARY KEY,
    workflow TEXT NOT NULL REFERENCES workflows (name),
    trigger TEXT NOT NULL,
    config TEXT NOT NULL,
    active INTEGER NOT NULL CHECK (active IN (0, 1)),
    began_at INTEGER NOT NULL,
    cursor INTEGER NOT NULL,
    next_at INTEGER CHECK (active = 1 OR next_at IS NULL),
    held_at INTEGER,
    last_slot INTEGER,
    missed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (workflow, trigger)
) STRICT;

-- list_due_schedules, next_schedule, count_overdue.
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at IS NOT NULL;

-- Decisions on slots: one row starts at most one run, in the transaction that writes it.
CREATE TABLE slots (
    schedule INTEGER NOT NULL REFERENCES schedules (id),
    slot INTEGER NOT NULL,
    code TEXT NOT NULL,
    at INTEGER NOT NULL,
    until INTEGER NOT NULL,
    covers INTEGER NOT NULL,
    more INTEGER NOT NULL CHECK (more IN (0, 1)),
    run TEXT,
    error TEXT,
    CHECK ((code IN ('SLOT_FIRED', 'SLOT_LATE')) = (run IS NOT NULL)),
    PRIMARY KEY (schedule, slot)
) STRICT, WITHOUT ROWID;

-- Verified requests, byte for byte. `body` is NULL when it is not kept any more.
CREATE TABLE deliveries (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    trigger TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state = 'ACCEPTED' OR state = 'FILTERED' OR state = 'DUPLICATE' OR state = 'FAILED'),
    received_at INTEGER NOT NULL,
    method TEXT NOT NULL,
    dedupe TEXT,
    debounce TEXT,
    run_key INTEGER,
    run_id TEXT,
    run_number INTEGER,
    earlier TEXT,
    replay_of TEXT,
    error TEXT,
    body_bytes INTEGER NOT NULL,
    query TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB,
    CHECK ((state IN ('ACCEPTED', 'DUPLICATE')) = (run_id IS NOT NULL))
) STRICT;

-- accept_delivery: a delivery id starts one run.
CREATE UNIQUE INDEX deliveries_dedupe ON deliveries (workflow, trigger, dedupe)
    WHERE dedupe IS NOT NULL AND state = 'ACCEPTED';
-- accept_delivery: the run that waits for the end of a burst.
CREATE INDEX deliveries_debounce ON deliveries (workflow, trigger, debounce) WHERE debounce IS NOT NULL;
-- list_deliveries of a workflow.
CREATE INDEX deliveries_workflow ON deliveries (workflow);
-- prune_deliveries.
CREATE INDEX deliveries_kept ON deliveries (key) WHERE body IS NOT NULL;

-- Ends of runs for which a trigger has not started its run yet.
CREATE TABLE run_ends (
    run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
    workflow TEXT NOT NULL,
    trigger TEXT NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (run, workflow, trigger)
) STRICT, WITHOUT ROWID;

-- ---- the rest

-- Rate limits: the time at which the next attempt may begin when all are spread evenly.
CREATE TABLE rates (
    key TEXT PRIMARY KEY,
    arrival INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Workflows that are held back; `*` is everything.
CREATE TABLE holds (
    workflow TEXT PRIMARY KEY,
    held_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `$state`. A value that was removed is NULL, so that its writer is known.
CREATE TABLE workflow_state (
    workflow TEXT NOT NULL REFERENCES workflows (name),
    key TEXT NOT NULL,
    value TEXT,
    writer TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (workflow, key)
) STRICT;

-- ---- secrets and variables

-- `key_id` names the key that `sealed` was made with.
CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    sealed BLOB NOT NULL,
    key_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE vars (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- ---- access

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;

-- Every change made through the API. AUTOINCREMENT: an entry that is missing shows.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    token TEXT,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    outcome TEXT NOT NULL,
    address TEXT,
    detail TEXT NOT NULL
) STRICT;

-- list_audit by time, prune_audit.
CREATE INDEX audit_at ON audit (at);

CREATE TRIGGER audit_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to');
END;

-- prune_audit says first from when on entries are kept.
CREATE TRIGGER audit_deleted BEFORE DELETE ON audit
WHEN old.at >= coalesce((SELECT value FROM properties WHERE name = 'audit_kept_from'), 0)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is only added to');
END;

CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    info TEXT NOT NULL,
    started_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How many rows there are, kept in the transactions that change them.
CREATE TABLE counts (
    kind TEXT NOT NULL
        CHECK (kind = 'run' OR kind = 'step' OR kind = 'dead_letter' OR kind = 'delivery' OR kind = 'inbox'),
    state TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (kind, state)
) STRICT, WITHOUT ROWID;
