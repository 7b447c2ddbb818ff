"""A document with everything that the language has, for tests of what it becomes."""

WHOLE = """
# yaml-language-server: $schema=../../contracts/workflow.schema.json
name: whole
description: Every construct once
inputs: {type: object, properties: {items: {type: array, default: [1, 2]}, key: {type: string, default: k}}}
concurrency: {key: "${{ $input.key }}", limit: 2, on_limit: cancel_oldest}
timeout: 1d
max_queue_time: 10m
priority: -5
defaults: {retry: {max_attempts: 2, when: "${{ $error.code == $vars.CODE }}"}}
steps:
  - id: reserve
    http: {method: POST, url: "https://x.example/reserve"}
    rate_limit: {key: "${{ $input.key }}", max: 10, per: 1m}
    effect: once
    probe: [{id: looked, transform: "${{ $input.key }}"}]
    undo: [{id: release, http: {method: DELETE, url: "https://x.example/${{ $reserve.body.id }}"}}]
  - id: each
    foreach:
      items: ${{ $input.items }}
      max_parallel: 4
      fail_fast: true
      steps:
        - id: both
          parallel:
            - {id: left, transform: "${{ $item }}"}
            - {id: right, needs: [left], transform: "${{ [$left, $index] }}"}
        - id: poll
          repeat:
            until: ${{ $look.body.done and $item and $right }}
            every: 1s
            max: 3
            steps:
              - {id: look, http: {url: "https://x.example/${{ $index }}"}, retry: {on: [network]}}
    catch:
      - {id: caught, transform: "${{ [$error.step, $each, $approved] }}"}
    finally:
      - {id: cleaned, transform: "${{ $caught }}"}
  - id: approved
    wait:
      signal: approved-${{ $input.key }}
      timeout: 1h
      schema: {type: object, properties: {ok: {type: boolean}}}
      on_timeout: [{id: late, transform: nobody}]
  - id: pause
    wait: {until: "${{ $now }}"}
  - id: child
    workflow: {name: other, input: {a: "${{ $late // $approved.ok }}"}, wait: true, version: 3}
    retry: {max_attempts: 5, when: "${{ $error.code == \\"CHILD_NOT_STARTED\\" and $approved.ok }}"}
  - id: keep
    set_state: {key: cursor, value: "${{ $child }}", expected: "${{ $state.cursor }}"}
on_failure:
  - {id: told, http: {method: POST, url: "https://x.example/told", json: "${{ [$error, $child, $release] }}"}}
finally:
  - {id: tidied, transform: "${{ [$error, $told, $keep] }}"}
output: ${{ [$keep, $late, $looked, $caught] }}
notify:
  - {slack: {url_secret: SLACK_URL}}
  - on: [SUCCEEDED, CANCELLED]
    discord: {url: "${{ $vars.DISCORD }}", text: "${{ $run.workflow }}: ${{ $keep // \\"nothing\\" }}"}
  - {on: [FAILED], webhook: {url_secret: HOOK, headers: {X-Run: "${{ $run.id }}"}, json: {why: "${{ $error }}"}}}
"""
