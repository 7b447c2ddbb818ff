-- Every statement of the SQLite store, named by its verb. Positional parameters, in the order of the columns.

-- ---- definitions

-- name: publish_workflow_find
SELECT w.current_version, w.deleted_at, v.document
FROM workflows AS w JOIN workflow_versions AS v ON v.workflow = w.name AND v.version = w.current_version
WHERE w.name = ?;

-- name: publish_workflow_insert
INSERT INTO workflows (name, current_version, description, created_at, updated_at) VALUES (?1, 1, ?2, ?3, ?3);

-- name: publish_workflow_update
UPDATE workflows
SET current_version = ?2, description = ?3, updated_at = ?4,
    enabled = CASE WHEN deleted_at IS NULL THEN enabled ELSE 1 END, deleted_at = NULL
WHERE name = ?1;

-- name: publish_workflow_version
INSERT INTO workflow_versions (workflow, version, media, created_at, document, source) VALUES (?, ?, ?, ?, ?, ?);

-- name: set_enabled
UPDATE workflows SET enabled = ?2, updated_at = ?3 WHERE name = ?1 AND deleted_at IS NULL
RETURNING name, current_version, enabled, deleted_at IS NOT NULL, description, created_at, updated_at;

-- name: delete_workflow
UPDATE workflows SET deleted_at = ?2, updated_at = ?2 WHERE name = ?1 AND deleted_at IS NULL;

-- name: get_workflow
SELECT name, current_version, enabled, deleted_at IS NOT NULL, description, created_at, updated_at
FROM workflows WHERE name = ? AND deleted_at IS NULL;

-- name: list_workflows
SELECT name, current_version, enabled, deleted_at IS NOT NULL, description, created_at, updated_at
FROM workflows WHERE name > ? AND deleted_at IS NULL ORDER BY name LIMIT ?;

-- name: list_newest_versions
SELECT v.workflow, v.version, v.document, v.source, v.media, v.created_at
FROM workflows AS w JOIN workflow_versions AS v ON v.workflow = w.name AND v.version = w.current_version
WHERE w.name > ? AND w.deleted_at IS NULL ORDER BY w.name LIMIT ?;

-- name: count_live_runs
SELECT workflow, version, state, count(*) FROM runs WHERE state IN ('QUEUED', 'RUNNING', 'WAITING')
GROUP BY workflow, version, state ORDER BY workflow, version, state;

-- name: get_version
SELECT workflow, version, document, source, media, created_at
FROM workflow_versions WHERE workflow = ? AND version = ?;

-- name: list_versions
SELECT workflow, version, document, source, media, created_at
FROM workflow_versions WHERE workflow = ? AND version < ? ORDER BY version DESC LIMIT ?;

-- ---- start_run

-- name: start_run_idempotent
SELECT key, id, number, state, request_hash, created_at FROM runs WHERE workflow = ? AND idempotency_key = ?;

-- name: start_run_forget_key
UPDATE runs SET idempotency_key = NULL WHERE workflow = ? AND idempotency_key = ?;

-- name: start_run_next_number
SELECT next_number FROM workflows WHERE name = ? AND enabled = 1 AND deleted_at IS NULL;

-- name: start_run_take_numbers
UPDATE workflows SET next_number = ?2 + ?3
WHERE name = ?1 AND next_number = ?2 AND enabled = 1 AND deleted_at IS NULL;

-- name: start_run_insert
INSERT INTO runs (
    id, workflow, number, version, state, generation, revision, owner, due_at, suspect, priority, start_at,
    trigger_type, created_at, started_at, finished_at, idempotency_key, request_hash, lineage, needs_slot, latest_at,
    place, placed, undone, parent_key, told, large, error, parent, ending, trigger, input, output
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: start_run_parent
SELECT runs.state, step_runs.state FROM runs LEFT JOIN step_runs ON step_runs.run = runs.key AND step_runs.path = ?2
WHERE key = ?1;

-- name: start_run_step
INSERT INTO step_runs (
    run, path, step, kind, state, generation, attempts, failures, crashes, output, error, data, available_at, ready_at,
    started_at, finished_at, stage, large
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- ---- decisions on a run that is stored

-- name: apply_run
UPDATE runs
SET state = ?3, generation = ?4, owner = ?5, due_at = ?6, suspect = ?7, output = ?8, error = ?9, started_at = ?10,
    finished_at = ?11, needs_slot = ?12, ending = ?13, place = ?14, placed = ?15, undone = ?16, latest_at = ?17,
    large = (large & 3) | ?18, revision = revision + 1
WHERE key = ?1 AND revision = ?2;

-- name: apply_run_revision
UPDATE runs SET revision = revision + 1 WHERE key = ?1 AND revision = ?2;

-- name: apply_step
INSERT INTO step_runs (
    run, path, step, kind, state, generation, attempts, failures, crashes, output, error, data, available_at, ready_at,
    started_at, finished_at, stage, large
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run, path) DO UPDATE SET
    state = excluded.state, generation = excluded.generation, attempts = excluded.attempts,
    failures = excluded.failures, crashes = excluded.crashes, output = excluded.output, error = excluded.error,
    data = excluded.data, available_at = excluded.available_at, ready_at = excluded.ready_at,
    started_at = excluded.started_at, finished_at = excluded.finished_at, stage = excluded.stage,
    large = excluded.large;

-- name: apply_lease
INSERT INTO attempts (run, id, path, generation, number, started_at, lease_owner, lease_expires_at, state)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'RUNNING');

-- name: finish_attempt
UPDATE attempts SET state = ?6, finished_at = ?7, error = ?8
WHERE run = ?1 AND path = ?3 AND generation = ?4 AND number = ?5 AND id = ?2 AND state = 'RUNNING';

-- name: apply_dead_letter
INSERT INTO dead_letters (run, id, path, generation, input, error, created_at, state)
VALUES (?, ?, ?, ?, ?, ?, ?, 'OPEN');

-- name: apply_dead_letters_to
UPDATE dead_letters SET state = ?2, closed_at = ?3 WHERE run = ?1 AND state = 'OPEN';

-- name: apply_ending_over
DELETE FROM outputs WHERE run = ? AND path = '' AND field = 'ending';

-- name: apply_signal
INSERT INTO signals (run, id, name, data, sent_at, large) VALUES (?, ?, ?, ?, ?, ?);

-- name: apply_signal_taken
DELETE FROM signals WHERE run = ? AND id = ? RETURNING large;

-- name: apply_signal_forget
DELETE FROM outputs WHERE run = ? AND path = ? AND field = 'signal';

-- name: apply_told
UPDATE runs SET told = 1 WHERE key = ? AND told = 0;

-- name: apply_rate
INSERT INTO rates (key, arrival) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET arrival = max(arrival, excluded.arrival);

-- name: apply_journal
INSERT INTO journal (run, at, entries) VALUES (?, ?, ?);

-- name: apply_large
INSERT OR REPLACE INTO outputs (run, path, field, encoding, body) VALUES (?, ?, ?, ?, ?);

-- name: apply_counts
INSERT INTO counts (kind, state, n) VALUES (?, ?, ?) ON CONFLICT (kind, state) DO UPDATE SET n = n + excluded.n;

-- ---- what a decision means for other runs

-- name: place_claim
UPDATE runs SET place_limit = ?2, due_at = coalesce(?3, due_at) WHERE key = ?1;

-- name: place_first_queued
SELECT key, place_limit FROM runs
WHERE place = ? AND placed = 0 AND state = 'QUEUED' AND place_limit IS NOT NULL
ORDER BY priority DESC, key LIMIT 1;

-- name: place_holders
SELECT count(*) FROM runs WHERE place = ? AND placed = 1 AND state IN ('QUEUED', 'RUNNING', 'WAITING');

-- name: place_grant
UPDATE runs SET placed = 1, owner = NULL, due_at = ?2, revision = revision + 1 WHERE key = ?1;

-- name: find_oldest_placed
SELECT key FROM runs
WHERE place = ? AND placed = 1 AND state IN ('QUEUED', 'RUNNING', 'WAITING') ORDER BY key LIMIT 1;

-- name: find_replaced
SELECT key FROM runs
WHERE place = ?1 AND placed = 1 AND state IN ('QUEUED', 'RUNNING', 'WAITING') AND ending IS NULL AND large & 8 = 0
    AND (
        SELECT count(*) FROM runs
        WHERE place = ?1 AND placed = 0 AND state = 'QUEUED' AND place_limit IS NOT NULL
    ) > (
        SELECT count(*) FROM runs
        WHERE place = ?1 AND placed = 1 AND state IN ('QUEUED', 'RUNNING', 'WAITING')
            AND (ending IS NOT NULL OR large & 8 <> 0)
    )
ORDER BY key LIMIT 1;

-- name: list_queued
SELECT place, min(key) FROM runs
WHERE placed = 0 AND state = 'QUEUED' AND place_limit IS NOT NULL AND place > ? GROUP BY place ORDER BY place LIMIT ?;

-- name: step_ended
UPDATE runs SET told = 2 WHERE parent_key = ? AND told = 0 AND told <> 1 AND parent ->> '$.path' = ?;

-- name: parent_ended
UPDATE runs SET told = 2 WHERE parent_key = ? AND told = 0 AND told <> 1;

-- name: list_children
SELECT key FROM runs
WHERE parent_key = ? AND told <> 1 AND state IN ('QUEUED', 'RUNNING', 'WAITING') ORDER BY key;

-- name: list_untold_children
SELECT key FROM runs WHERE told = 0 AND state IN ('SUCCEEDED', 'FAILED', 'CANCELLED') LIMIT ?;

-- name: list_orphans
SELECT key FROM runs WHERE told = 2 AND state IN ('QUEUED', 'RUNNING', 'WAITING') LIMIT ?;

-- name: list_rates
SELECT key, arrival FROM rates;

-- name: forget_rates
DELETE FROM rates WHERE arrival < ?;

-- ---- ownership and leases

-- name: lease_steps_next_priority
SELECT priority FROM runs
WHERE due_at IS NOT NULL AND suspect = 0 AND needs_slot = ? AND priority < ? ORDER BY priority DESC LIMIT 1;

-- name: lease_steps_due
SELECT due_at, key FROM runs
WHERE due_at IS NOT NULL AND suspect = 0 AND needs_slot = ? AND priority = ? AND due_at <= ?
    AND workflow NOT IN (SELECT value FROM json_each(?))
ORDER BY due_at, key LIMIT ?;

-- name: lease_steps_latest
SELECT key FROM runs
WHERE latest_at <= ? AND +suspect = 0 AND workflow NOT IN (SELECT value FROM json_each(?))
ORDER BY latest_at, key LIMIT ?;

-- name: lease_steps_suspects
SELECT key FROM runs
WHERE due_at IS NOT NULL AND suspect > 0 AND needs_slot <= ? AND due_at <= ?
    AND workflow NOT IN (SELECT value FROM json_each(?))
ORDER BY priority DESC, due_at, key LIMIT ?;

-- name: lease_steps_take
UPDATE runs SET owner = ?2, due_at = NULL, latest_at = NULL, revision = revision + 1
WHERE key = ?1 AND due_at IS NOT NULL;

-- name: lease_steps_give_back
UPDATE runs SET owner = NULL, due_at = ?3, revision = revision + 1 WHERE key = ?1 AND owner = ?2;

-- name: next_due
SELECT due_at FROM runs
WHERE due_at IS NOT NULL AND suspect = 0 AND needs_slot = ? AND priority = ?
    AND workflow NOT IN (SELECT value FROM json_each(?))
ORDER BY due_at, key LIMIT 1;

-- name: next_latest
SELECT latest_at FROM runs
WHERE latest_at IS NOT NULL AND +suspect = 0 AND workflow NOT IN (SELECT value FROM json_each(?))
ORDER BY latest_at, key LIMIT 1;

-- name: next_due_suspect
SELECT min(due_at) FROM runs
WHERE due_at IS NOT NULL AND suspect > 0 AND needs_slot <= ? AND workflow NOT IN (SELECT value FROM json_each(?));

-- name: release_run
UPDATE runs SET owner = NULL, due_at = ?3, revision = revision + 1
WHERE key = ?1 AND revision = ?2 AND owner IS NOT NULL;

-- name: renew_leases
UPDATE attempts SET lease_expires_at = ?2 WHERE lease_owner = ?1 AND state = 'RUNNING';

-- name: rescue_leases_owners
SELECT owner FROM runs WHERE owner IS NOT NULL
UNION SELECT lease_owner FROM attempts WHERE state = 'RUNNING';

-- name: rescue_leases_runs
SELECT key FROM runs WHERE owner = ?1 LIMIT ?2;

-- name: rescue_leases_strays
SELECT DISTINCT run FROM attempts WHERE state = 'RUNNING' AND lease_owner = ?1 LIMIT ?2;

-- name: rescue_leases_lapsed
SELECT DISTINCT run, lease_owner FROM attempts
WHERE state = 'RUNNING' AND lease_owner IS NOT ?1 AND lease_expires_at < ?2 LIMIT ?3;

-- name: rescue_leases_attempts
SELECT path, generation, number FROM attempts WHERE state = 'RUNNING' AND lease_owner = ? AND run = ?;

-- name: rescue_leases_attempt
UPDATE attempts SET state = 'LOST', finished_at = ?5, error = ?6
WHERE run = ?1 AND path = ?2 AND generation = ?3 AND number = ?4;

-- name: rescue_leases_step
UPDATE step_runs SET state = 'QUEUED', available_at = ?4, crashes = crashes + ?5
WHERE run = ?1 AND path = ?2 AND generation = ?3 AND state = 'RUNNING'
RETURNING crashes;

-- name: rescue_leases_suspect
SELECT suspect FROM runs WHERE key = ?;

-- name: rescue_leases_free
UPDATE runs SET owner = NULL, due_at = ?2, suspect = ?3, revision = revision + 1 WHERE key = ?1;

-- ---- reading runs

-- name: run_by_key
SELECT key, id, number, workflow, version, trigger, trigger_type, input, created_at, priority, start_at, revision,
    lineage, parent, state, generation, owner, due_at, suspect, output, error, started_at, finished_at, needs_slot,
    ending, place, placed, undone, latest_at, large
FROM runs WHERE key = ?;

-- name: run_by_id
SELECT key, id, number, workflow, version, trigger, trigger_type, input, created_at, priority, start_at, revision,
    lineage, parent, state, generation, owner, due_at, suspect, output, error, started_at, finished_at, needs_slot,
    ending, place, placed, undone, latest_at, large
FROM runs WHERE id = ?;

-- name: run_by_number
SELECT key, id, number, workflow, version, trigger, trigger_type, input, created_at, priority, start_at, revision,
    lineage, parent, state, generation, owner, due_at, suspect, output, error, started_at, finished_at, needs_slot,
    ending, place, placed, undone, latest_at, large
FROM runs WHERE workflow = ? AND number = ?;

-- name: steps_of_run
SELECT path, step, kind, state, generation, attempts, failures, crashes, output, error, data, available_at, ready_at,
    started_at, finished_at, stage, large
FROM step_runs WHERE run = ? AND path > ? ORDER BY path LIMIT ?;

-- name: failed_steps_of_run
SELECT path, step, kind, state, generation, attempts, failures, crashes, output, error, data, available_at, ready_at,
    started_at, finished_at, stage, large
FROM step_runs WHERE run = ? AND path > ? AND state = 'FAILED' ORDER BY path LIMIT ?;

-- name: attempts_of_run
SELECT id, path, generation, number, started_at, lease_owner, lease_expires_at, state, finished_at, error
FROM attempts WHERE run = ? AND path BETWEEN ? AND ? ORDER BY path, generation, number;

-- name: attempts_of_step
SELECT id, path, generation, number, started_at, lease_owner, lease_expires_at, state, finished_at, error
FROM attempts WHERE run = ? AND path = ? ORDER BY generation, number;

-- name: attempts_of_whole_run
SELECT id, path, generation, number, started_at, lease_owner, lease_expires_at, state, finished_at, error
FROM attempts WHERE run = ? ORDER BY path, generation, number;

-- name: signals_of_run
SELECT id, name, data, sent_at, large FROM signals WHERE run = ? ORDER BY key;

-- name: large_value
SELECT encoding, body FROM outputs WHERE run = ? AND path = ? AND field = ?;

-- name: count_steps
SELECT count(*) FROM step_runs WHERE run = ?;

-- name: list_runs_newest
SELECT key, id, number, workflow, version, trigger, trigger_type, input, created_at, priority, start_at, revision,
    lineage, parent, state, generation, owner, due_at, suspect, output, error, started_at, finished_at, needs_slot,
    ending, place, placed, undone, latest_at, large
FROM runs
WHERE key < ?1 AND key >= ?2 AND created_at BETWEEN ?3 AND ?4 AND (?5 IS NULL OR trigger_type = ?5)
ORDER BY key DESC LIMIT ?6;

-- name: list_runs_of_workflow
SELECT key, id, number, workflow, version, trigger, trigger_type, input, created_at, priority, start_at, revision,
    lineage, parent, state, generation, owner, due_at, suspect, output, error, started_at, finished_at, needs_slot,
    ending, place, placed, undone, latest_at, large
FROM runs
WHERE workflow = ?7 AND number <= ?8 AND key < ?1 AND key >= ?2 AND created_at BETWEEN ?3 AND ?4
    AND (?5 IS NULL OR trigger_type = ?5) AND (?9 IS NULL OR state IN (SELECT value FROM json_each(?9)))
ORDER BY number DESC LIMIT ?6;

-- name: list_runs_in_state
SELECT key, id, number, workflow, version, trigger, trigger_type, input, created_at, priority, start_at, revision,
    lineage, parent, state, generation, owner, due_at, suspect, output, error, started_at, finished_at, needs_slot,
    ending, place, placed, undone, latest_at, large
FROM runs
WHERE state = ?7 AND key < ?1 AND key >= ?2 AND created_at BETWEEN ?3 AND ?4 AND (?5 IS NULL OR trigger_type = ?5)
    AND (?8 IS NULL OR workflow = ?8)
ORDER BY key DESC LIMIT ?6;

-- name: list_runs_first_since
SELECT key FROM runs WHERE created_at >= ? ORDER BY created_at, key LIMIT 1;

-- name: list_runs_last_until
SELECT key FROM runs WHERE created_at <= ? ORDER BY created_at DESC, key DESC LIMIT 1;

-- name: list_runs_cursor_number
SELECT number FROM runs WHERE key = ? AND workflow = ?;

-- name: list_runs_workflow_size
SELECT next_number FROM workflows WHERE name = ?;

-- name: list_journal
SELECT journal.id, runs.id, journal.at, journal.entries FROM journal JOIN runs ON runs.key = journal.run
WHERE journal.id > ? ORDER BY journal.id LIMIT ?;

-- name: list_journal_of_run
SELECT journal.id, runs.id, journal.at, journal.entries FROM journal JOIN runs ON runs.key = journal.run
WHERE journal.run = ? AND journal.id > ? ORDER BY journal.id LIMIT ?;

-- name: last_journal_id
SELECT coalesce(max(id), 0) FROM journal;

-- ---- holding and state

-- name: set_hold
INSERT INTO holds (workflow, held_at) VALUES (?, ?) ON CONFLICT (workflow) DO NOTHING;

-- name: set_hold_off
DELETE FROM holds WHERE workflow = ?;

-- name: list_holds
SELECT workflow FROM holds ORDER BY workflow;

-- name: get_state
SELECT key, value FROM workflow_state WHERE workflow = ? AND value IS NOT NULL ORDER BY key;

-- name: set_state_find
SELECT value, writer FROM workflow_state WHERE workflow = ? AND key = ?;

-- name: set_state_workflow
SELECT 1 FROM workflows WHERE name = ?;

-- name: set_state
INSERT INTO workflow_state (workflow, key, value, writer, updated_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (workflow, key) DO UPDATE SET
    value = excluded.value, writer = excluded.writer, updated_at = excluded.updated_at;

-- ---- triggers

-- name: sync_triggers_forget
DELETE FROM triggers WHERE workflow = ?;

-- name: sync_triggers_insert
INSERT INTO triggers (workflow, name, kind, source, states) VALUES (?, ?, ?, ?, ?);

-- name: sync_schedules_find
SELECT trigger, config, active FROM schedules WHERE workflow = ?;

-- name: sync_schedules_begin
INSERT INTO schedules (workflow, trigger, config, active, began_at, cursor, next_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6)
ON CONFLICT (workflow, trigger) DO UPDATE
SET config = ?3, active = ?4, began_at = ?5, cursor = ?5, next_at = ?6, held_at = NULL, missed = 0;

-- name: sync_schedules_void
DELETE FROM slots
WHERE schedule = (SELECT id FROM schedules WHERE workflow = ? AND trigger = ?) AND slot > ? AND run IS NULL;

-- name: sync_schedules_keep
UPDATE schedules SET config = ?3, next_at = min(next_at, ?4) WHERE workflow = ?1 AND trigger = ?2;

-- name: sync_schedules_end
UPDATE schedules SET active = 0, next_at = NULL, held_at = NULL WHERE workflow = ?1 AND trigger = ?2;

-- name: sync_schedules_end_all
UPDATE schedules SET active = 0, next_at = NULL, held_at = NULL WHERE workflow = ?;

-- name: set_enabled_before
SELECT enabled FROM workflows WHERE name = ? AND deleted_at IS NULL;

-- name: set_hold_wake
UPDATE schedules SET next_at = min(next_at, held_at), held_at = NULL
WHERE next_at IS NOT NULL AND held_at IS NOT NULL AND (?1 IS NULL OR workflow = ?1);

-- name: list_due_schedules
SELECT id, workflow, trigger, config, active, began_at, cursor, next_at, held_at, last_slot, missed
FROM schedules WHERE next_at <= ? ORDER BY next_at LIMIT ?;

-- name: next_schedule
SELECT min(next_at) FROM schedules WHERE next_at IS NOT NULL;

-- name: fire_schedule_move
UPDATE schedules
SET cursor = ?3, next_at = ?4, last_slot = coalesce(?5, last_slot), missed = missed + ?6,
    held_at = CASE WHEN ?7 IS NULL THEN NULL ELSE coalesce(held_at, ?7) END
WHERE id = ?1 AND cursor = ?2 AND active = 1;

-- name: fire_schedule_slot
INSERT INTO slots (schedule, slot, code, at, until, covers, more, run, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (schedule, slot) DO UPDATE
SET code = excluded.code, at = excluded.at, until = excluded.until, covers = excluded.covers, more = excluded.more,
    run = excluded.run, error = excluded.error
WHERE slots.code = 'SLOT_HELD';

-- name: fire_schedule_unhold
DELETE FROM slots WHERE schedule = ? AND slot > ? AND slot <= ? AND code = 'SLOT_HELD';

-- name: list_schedules
SELECT s.id, s.workflow, s.trigger, s.config, s.active, s.began_at, s.cursor, s.next_at, s.held_at, s.last_slot,
    s.missed
FROM schedules AS s JOIN triggers AS t ON t.workflow = s.workflow AND t.name = s.trigger
WHERE s.id > ?2 AND (?1 IS NULL OR s.workflow = ?1) ORDER BY s.id LIMIT ?3;

-- name: list_slots
SELECT slot, code, at, until, covers, more, run, error FROM slots WHERE schedule = ? ORDER BY slot DESC LIMIT ?;

-- name: list_slots_of_run
SELECT d.slot, d.code, d.at, d.until, d.covers, d.more, d.run, d.error
FROM schedules AS s JOIN slots AS own ON own.schedule = s.id JOIN slots AS d ON d.schedule = s.id AND d.slot <= ?4
WHERE s.workflow = ?2 AND s.trigger = ?3 AND own.slot = ?4 AND own.run = ?1
    AND d.slot >= coalesce(
        (SELECT max(slot) FROM slots WHERE schedule = s.id AND slot < ?4 AND (at <> own.at OR run IS NOT NULL)) + 1, 0
    )
ORDER BY d.slot;

-- name: count_overdue
SELECT count(*), min(next_at) FROM schedules WHERE next_at < ?;

-- name: prune_slots_schedules
SELECT id FROM schedules WHERE id > ? ORDER BY id LIMIT ?;

-- name: prune_slots
DELETE FROM slots WHERE schedule = ? AND slot < ? AND at < ?;

-- name: accept_delivery_earlier
SELECT d.id, d.run_id, d.run_key, d.run_number, r.state
FROM deliveries AS d LEFT JOIN runs AS r ON r.key = d.run_key AND r.id = d.run_id
WHERE d.workflow = ? AND d.trigger = ? AND d.dedupe = ? AND d.state = 'ACCEPTED';

-- name: accept_delivery_pending
SELECT r.key, r.id, r.number
FROM deliveries AS d JOIN runs AS r ON r.key = d.run_key
WHERE d.workflow = ?1 AND d.trigger = ?2 AND d.debounce = ?3 AND d.state = 'ACCEPTED' AND r.id = d.run_id
    AND r.state = 'QUEUED' AND r.owner IS NULL AND r.start_at > ?4
ORDER BY d.key DESC LIMIT 1;

-- name: accept_delivery_replace
UPDATE runs
SET version = ?2, input = ?3, trigger = ?4, large = ?5, start_at = ?6, due_at = ?7, priority = ?8,
    revision = revision + 1
WHERE key = ?1;

-- name: accept_delivery_forget_large
DELETE FROM outputs WHERE run = ? AND path = '' AND field IN ('input', 'trigger');

-- name: accept_delivery_insert
INSERT INTO deliveries (
    id, workflow, trigger, version, state, received_at, method, dedupe, debounce, run_key, run_id, run_number, earlier,
    replay_of, error, body_bytes, query, headers, body
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: find_delivery
SELECT key, id, workflow, trigger, version, state, received_at, method, query, headers, body_bytes, body IS NOT NULL,
    dedupe, run_id, run_number, earlier, replay_of, error
FROM deliveries WHERE workflow = ? AND trigger = ? AND dedupe = ? AND state = 'ACCEPTED';

-- name: get_delivery
SELECT key, id, workflow, trigger, version, state, received_at, method, query, headers, body_bytes, body IS NOT NULL,
    dedupe, run_id, run_number, earlier, replay_of, error
FROM deliveries WHERE id = ?;

-- name: find_delivery_body
SELECT body FROM deliveries WHERE id = ?;

-- name: list_deliveries
SELECT key, id, workflow, trigger, version, state, received_at, method, query, headers, body_bytes, body IS NOT NULL,
    dedupe, run_id, run_number, earlier, replay_of, error
FROM deliveries
WHERE key < ?1 AND key >= ?2 AND (?3 IS NULL OR trigger = ?3) AND (?4 IS NULL OR state = ?4)
    AND (?5 IS NULL OR instr(lower(headers), ?5) OR instr(lower(query), ?5)
        OR instr(lower(CAST(body AS TEXT)), ?5))
ORDER BY key DESC LIMIT ?6;

-- name: list_deliveries_of_workflow
SELECT key, id, workflow, trigger, version, state, received_at, method, query, headers, body_bytes, body IS NOT NULL,
    dedupe, run_id, run_number, earlier, replay_of, error
FROM deliveries
WHERE workflow = ?7 AND key < ?1 AND key >= ?2 AND (?3 IS NULL OR trigger = ?3) AND (?4 IS NULL OR state = ?4)
    AND (?5 IS NULL OR instr(lower(headers), ?5) OR instr(lower(query), ?5)
        OR instr(lower(CAST(body AS TEXT)), ?5))
ORDER BY key DESC LIMIT ?6;

-- name: list_deliveries_bounds
SELECT (SELECT min(key) FROM deliveries), (SELECT max(key) FROM deliveries);

-- name: prune_deliveries_oldest
SELECT key, state, received_at, body IS NOT NULL, body_bytes FROM deliveries ORDER BY key LIMIT ?;

-- name: prune_deliveries_delete
DELETE FROM deliveries WHERE key = ?;

-- name: prune_deliveries_bytes
SELECT n FROM counts WHERE kind = 'inbox' AND state = 'BYTES';

-- name: prune_deliveries_bodies
SELECT key, body_bytes FROM deliveries WHERE body IS NOT NULL ORDER BY key LIMIT ?;

-- name: prune_deliveries_forget
UPDATE deliveries SET body = NULL WHERE key = ?;

-- name: count_queued
SELECT n FROM counts WHERE kind = 'run' AND state = 'QUEUED';

-- name: list_sources
SELECT DISTINCT source FROM triggers WHERE source IS NOT NULL;

-- name: run_ended
INSERT OR REPLACE INTO run_ends (run, workflow, trigger, generation)
SELECT r.key, t.workflow, t.name, r.generation
FROM runs AS r JOIN triggers AS t ON t.source = r.workflow
    JOIN workflows AS w ON w.name = t.workflow
WHERE r.key = ?1 AND instr(t.states, ?2) AND w.enabled = 1 AND w.deleted_at IS NULL;

-- name: list_ends
SELECT run, workflow, trigger, generation FROM run_ends ORDER BY run LIMIT ?;

-- name: list_ends_of_run
SELECT run, workflow, trigger, generation FROM run_ends WHERE run = ? LIMIT ?;

-- name: start_on_end_take
DELETE FROM run_ends WHERE run = ? AND workflow = ? AND trigger = ? AND generation = ?;

-- ---- dead letters

-- name: get_dead_letter
SELECT d.id, d.state, r.id, r.number, r.workflow, d.path, d.generation, d.input, d.error, d.created_at, d.closed_at
FROM dead_letters AS d JOIN runs AS r ON r.key = d.run WHERE d.id = ?;

-- name: list_dead_letters
SELECT d.id, d.state, r.id, r.number, r.workflow, d.path, d.generation, d.input, d.error, d.created_at, d.closed_at
FROM dead_letters AS d JOIN runs AS r ON r.key = d.run WHERE d.id < ? ORDER BY d.id DESC LIMIT ?;

-- name: list_dead_letters_in_state
SELECT d.id, d.state, r.id, r.number, r.workflow, d.path, d.generation, d.input, d.error, d.created_at, d.closed_at
FROM dead_letters AS d JOIN runs AS r ON r.key = d.run WHERE d.state = ? AND d.id < ? ORDER BY d.id DESC LIMIT ?;

-- name: list_dead_letters_of_workflow
SELECT d.id, d.state, r.id, r.number, r.workflow, d.path, d.generation, d.input, d.error, d.created_at, d.closed_at
FROM dead_letters AS d JOIN runs AS r ON r.key = d.run
WHERE r.workflow = ?1 AND d.id < ?2 AND (?3 IS NULL OR d.state = ?3) ORDER BY d.id DESC LIMIT ?4;

-- name: discard_dead_letter
UPDATE dead_letters SET state = 'DISCARDED', closed_at = ?2 WHERE id = ?1 AND state = 'OPEN';

-- ---- access

-- name: create_token
INSERT INTO tokens (id, name, hash, scopes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?);

-- name: list_tokens
SELECT id, name, hash, scopes, created_at, expires_at FROM tokens ORDER BY id;

-- name: find_token
SELECT id, name, hash, scopes, created_at, expires_at FROM tokens WHERE hash = ?;

-- name: revoke_token
DELETE FROM tokens WHERE id = ?;

-- name: add_audit
INSERT INTO audit (at, token, actor, action, target, outcome, address, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: list_audit
SELECT id, at, token, actor, action, target, outcome, address, detail FROM audit
WHERE id < ?1 AND at BETWEEN ?2 AND ?3 AND (?4 IS NULL OR actor = ?4 OR token = ?4) AND (?5 IS NULL OR action = ?5)
    AND (?6 IS NULL OR target = ?6 OR substr(target, 1, length(?7)) = ?7)
ORDER BY id DESC LIMIT ?8;

-- name: prune_audit_kept
INSERT INTO properties (name, value) VALUES ('audit_kept_from', ?1)
ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value);

-- name: prune_audit
DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ?1 ORDER BY at LIMIT ?2);

-- ---- secrets and variables

-- name: put_secret
INSERT INTO secrets (name, sealed, key_id, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4)
ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, key_id = excluded.key_id, updated_at = excluded.updated_at;

-- name: find_secret
SELECT name, sealed, key_id, created_at, updated_at FROM secrets WHERE name = ?;

-- name: list_secrets
SELECT name, sealed, key_id, created_at, updated_at FROM secrets ORDER BY name;

-- name: reseal_secret
UPDATE secrets SET sealed = ?2, key_id = ?3 WHERE name = ?1;

-- name: delete_secret
DELETE FROM secrets WHERE name = ?;

-- name: put_var
INSERT INTO vars (name, value, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)
ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;

-- name: find_var
SELECT name, value, created_at, updated_at FROM vars WHERE name = ?;

-- name: list_vars
SELECT name, value, created_at, updated_at FROM vars ORDER BY name;

-- name: delete_var
DELETE FROM vars WHERE name = ?;

-- ---- nodes and upkeep

-- name: register_node
INSERT INTO nodes (id, info, started_at) VALUES (?1, ?2, ?3)
ON CONFLICT (id) DO UPDATE SET info = excluded.info, started_at = excluded.started_at;

-- name: register_node_forget
DELETE FROM nodes WHERE id <> ?;

-- name: prune_runs_find
SELECT key, created_at FROM runs
WHERE created_at >= ?1 AND created_at < ?2 AND finished_at < ?2 AND (idempotency_key IS NULL OR created_at < ?3)
    AND told IS NOT 0 AND NOT EXISTS (SELECT 1 FROM dead_letters AS d WHERE d.run = runs.key AND d.state = 'OPEN')
ORDER BY created_at LIMIT ?4;

-- name: count_ended
SELECT count(*) FROM runs
WHERE created_at < ?1 AND finished_at < ?1 AND (idempotency_key IS NULL OR created_at < ?2)
    AND told IS NOT 0 AND NOT EXISTS (SELECT 1 FROM dead_letters AS d WHERE d.run = runs.key AND d.state = 'OPEN');

-- name: prune_runs_state
SELECT state FROM runs
WHERE key = ?1 AND finished_at < ?2 AND (idempotency_key IS NULL OR created_at < ?3)
    AND told IS NOT 0 AND NOT EXISTS (SELECT 1 FROM dead_letters AS d WHERE d.run = runs.key AND d.state = 'OPEN');

-- name: prune_runs_steps
SELECT state, count(*) FROM step_runs WHERE run = ? GROUP BY state;

-- name: prune_runs_dead_letters
SELECT state, count(*) FROM dead_letters WHERE run = ? GROUP BY state;

-- name: prune_runs_delete
DELETE FROM runs WHERE key = ?;

-- name: stats_counts
SELECT kind, state, n FROM counts;

-- name: stats_ready
SELECT count(*), min(available_at) FROM step_runs WHERE state = 'QUEUED' AND available_at <= ?;

-- ---- check: each statement returns what breaks the rule, one line each

-- name: check_counts
WITH really (kind, state, n) AS (
    SELECT 'run', state, count(*) FROM runs GROUP BY state
    UNION ALL SELECT 'step', state, count(*) FROM step_runs GROUP BY state
    UNION ALL SELECT 'dead_letter', state, count(*) FROM dead_letters GROUP BY state
    UNION ALL SELECT 'delivery', state, count(*) FROM deliveries GROUP BY state
    UNION ALL SELECT 'inbox', 'BYTES', sum(body_bytes) FROM deliveries WHERE body IS NOT NULL HAVING count(*) > 0
),
both (kind, state, kept, n) AS (
    SELECT counts.kind, counts.state, counts.n, coalesce(really.n, 0)
    FROM counts LEFT JOIN really USING (kind, state)
    UNION ALL
    SELECT really.kind, really.state, 0, really.n FROM really
    WHERE NOT EXISTS (SELECT 1 FROM counts WHERE counts.kind = really.kind AND counts.state = really.state)
)
SELECT kind, state, kept, n FROM both WHERE kept <> n;

-- name: check_terminal_runs
SELECT workflow || '#' || number FROM runs
WHERE state IN ('SUCCEEDED', 'FAILED', 'CANCELLED')
    AND (owner IS NOT NULL OR due_at IS NOT NULL OR finished_at IS NULL OR EXISTS (
        SELECT 1 FROM step_runs WHERE run = runs.key AND state IN ('QUEUED', 'RUNNING', 'WAITING')))
LIMIT 50;

-- name: check_run_ends
SELECT runs.workflow || '#' || runs.number
FROM journal JOIN runs ON runs.key = journal.run, json_each(journal.entries) AS entry
WHERE entry.value ->> 'run' IN ('SUCCEEDED', 'FAILED', 'CANCELLED')
GROUP BY runs.key
HAVING count(*) <> runs.generation - (runs.state IN ('QUEUED', 'RUNNING', 'WAITING'))
LIMIT 50;

-- name: check_step_ends
SELECT runs.workflow || '#' || runs.number || ' ' || (entry.value ->> 'step')
FROM journal JOIN runs ON runs.key = journal.run, json_each(journal.entries) AS entry
WHERE entry.value ->> 'step' IS NOT NULL
GROUP BY runs.key, entry.value ->> 'step'
HAVING sum(entry.value ->> 'to' IN ('SUCCEEDED', 'FAILED', 'SKIPPED', 'CANCELLED'))
    > 1 + sum(coalesce(entry.value ->> 'code' = 'RETRY_ASKED', 0))
LIMIT 50;

-- name: check_stuck_runs
SELECT workflow || '#' || number FROM runs
WHERE state IN ('QUEUED', 'RUNNING', 'WAITING') AND (owner IS NULL) = (due_at IS NULL)
    AND (owner IS NOT NULL OR NOT (
        (state = 'QUEUED' AND placed = 0 AND place_limit IS NOT NULL)
        OR EXISTS (SELECT 1 FROM step_runs WHERE run = runs.key AND state = 'WAITING')))
LIMIT 50;

-- name: check_free_places
WITH wanted (place) AS (
    SELECT DISTINCT place FROM runs WHERE placed = 0 AND state = 'QUEUED' AND place_limit IS NOT NULL
)
SELECT first.workflow || '#' || first.number
FROM wanted JOIN runs AS first ON first.key = (
    SELECT key FROM runs AS r
    WHERE r.place = wanted.place AND r.placed = 0 AND r.state = 'QUEUED' AND r.place_limit IS NOT NULL
    ORDER BY r.priority DESC, r.key LIMIT 1)
WHERE first.place_limit > (
    SELECT count(*) FROM runs AS r
    WHERE r.place = wanted.place AND r.placed = 1 AND r.state IN ('QUEUED', 'RUNNING', 'WAITING'))
LIMIT 50;

-- name: check_full_places
SELECT place FROM runs
WHERE placed = 1 AND state IN ('QUEUED', 'RUNNING', 'WAITING')
GROUP BY place HAVING count(*) > max(place_limit)
LIMIT 50;

-- name: check_forgotten_children
SELECT child.workflow || '#' || child.number
FROM runs AS child LEFT JOIN runs AS parent ON parent.key = child.parent_key
WHERE child.told = 0 AND child.told <> 1 AND coalesce(parent.state, '') NOT IN ('QUEUED', 'RUNNING', 'WAITING')
LIMIT 50;

-- name: check_stuck_steps
SELECT runs.workflow || '#' || runs.number || ' ' || path
FROM step_runs JOIN runs ON runs.key = step_runs.run
WHERE step_runs.state = 'QUEUED' AND available_at IS NULL
LIMIT 50;

-- name: check_lost_running
SELECT runs.workflow || '#' || runs.number || ' ' || path
FROM attempts JOIN runs ON runs.key = attempts.run
WHERE attempts.state = 'RUNNING' AND runs.owner IS NOT attempts.lease_owner
LIMIT 50;

-- name: check_running_steps
SELECT runs.workflow || '#' || runs.number || ' ' || attempts.path
FROM attempts JOIN runs ON runs.key = attempts.run
    LEFT JOIN step_runs ON step_runs.run = attempts.run AND step_runs.path = attempts.path
WHERE attempts.state = 'RUNNING'
    AND (step_runs.state IS NOT 'RUNNING' OR step_runs.generation <> attempts.generation)
LIMIT 50;

-- name: check_attempt_numbers
SELECT runs.workflow || '#' || runs.number || ' ' || attempts.path
FROM attempts JOIN runs ON runs.key = attempts.run
    JOIN step_runs ON step_runs.run = attempts.run AND step_runs.path = attempts.path
GROUP BY attempts.run, attempts.path, attempts.generation
HAVING min(attempts.number) <> 1 OR max(attempts.number) <> count(*)
    OR (attempts.generation = step_runs.generation AND max(attempts.number) <> step_runs.attempts)
LIMIT 50;

-- name: check_letters_without_failure
SELECT dead_letters.id
FROM dead_letters
    LEFT JOIN step_runs ON step_runs.run = dead_letters.run AND step_runs.path = dead_letters.path
WHERE dead_letters.state = 'OPEN'
    AND (step_runs.state IS NOT 'FAILED' OR step_runs.generation <> dead_letters.generation)
LIMIT 50;

-- name: check_failures_without_letter
SELECT runs.workflow || '#' || runs.number || ' ' || step_runs.path
FROM runs JOIN step_runs ON step_runs.run = runs.key AND step_runs.path = runs.error ->> 'step'
WHERE runs.state = 'FAILED' AND step_runs.state = 'FAILED' AND step_runs.attempts > 0 AND NOT EXISTS (
    SELECT 1 FROM dead_letters WHERE run = runs.key AND path = step_runs.path AND generation = step_runs.generation)
LIMIT 50;

-- ---- what `doctor` asks beside the invariants

-- name: check_newest_time
SELECT max(at) FROM (
    SELECT max(created_at) AS at FROM runs
    UNION ALL SELECT at FROM journal WHERE id = (SELECT max(id) FROM journal)
    UNION ALL SELECT received_at FROM deliveries WHERE key = (SELECT max(key) FROM deliveries)
    UNION ALL SELECT max(started_at) FROM nodes
);

-- name: check_expired_leases
SELECT runs.workflow || '#' || runs.number || ' ' || path, lease_expires_at
FROM attempts JOIN runs ON runs.key = attempts.run
WHERE attempts.state = 'RUNNING' AND lease_expires_at < ?
ORDER BY lease_expires_at;

-- name: check_held_by_the_dead
SELECT workflow || '#' || number, owner FROM runs
WHERE owner IS NOT NULL AND (?1 OR owner NOT IN (SELECT id FROM nodes))
ORDER BY key;

-- name: check_overdue_runs
SELECT workflow || '#' || number, due_at, needs_slot FROM runs
WHERE due_at < ? AND suspect = 0 AND NOT EXISTS (SELECT 1 FROM holds WHERE holds.workflow IN (runs.workflow, '*'))
ORDER BY due_at;

-- name: check_suspect_runs
SELECT workflow || '#' || number FROM runs
WHERE suspect > 0 AND state IN ('QUEUED', 'RUNNING', 'WAITING') ORDER BY key;

-- name: check_overdue_schedules
SELECT workflow || '/' || trigger, next_at FROM schedules WHERE next_at < ? ORDER BY next_at;

-- name: check_schedule_zones
SELECT workflow || '/' || trigger, config ->> '$.timezone' FROM schedules WHERE active = 1 ORDER BY id;

-- name: check_sealed
SELECT name, sealed, key_id FROM secrets ORDER BY name;

-- name: check_open_letters
SELECT count(*) FROM dead_letters WHERE state = 'OPEN';

-- name: check_holds
SELECT workflow FROM holds ORDER BY workflow;
