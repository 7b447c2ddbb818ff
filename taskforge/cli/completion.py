"""`completion bash|zsh|fish`: the script that lets a shell ask this program what could come next."""

from __future__ import annotations

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.render import Paint

# Each script hands over what stands before the cursor and gets back one line for each candidate:
# kind, tab, text, tab, what it is. Kinds are `value`, `open` (more of the same word follows), `file` and `dir`.
_BASH = r"""# taskforge: completion for bash. For this session:   source <(taskforge completion bash)
# For every session: put that line into ~/.bashrc
_taskforge_completion() {
    local kind text about program="${1/#\~/$HOME}"
    COMPREPLY=()
    while IFS=$'\t' read -r kind text about; do
        case "$kind" in
            value) COMPREPLY+=("$text") ;;
            open) COMPREPLY+=("$text"); compopt -o nospace ;;
            file) compopt -o filenames -o default ;;
            dir) compopt -o filenames -o dirnames ;;
        esac
    done < <("$program" __complete bash "$COMP_WORDBREAKS" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null </dev/null)
}
complete -o nosort -F _taskforge_completion taskforge
"""
_ZSH = r"""#compdef taskforge
# taskforge: completion for zsh. For this session:   source <(taskforge completion zsh)
# For every session: put that line into ~/.zshrc after compinit,
# or write the script once:   taskforge completion zsh > "${fpath[1]}/_taskforge"
_taskforge() {
    local kind text about
    local -a values open
    while IFS=$'\t' read -r kind text about; do
        case "$kind" in
            value) values+=("${text//:/\\:}${about:+:$about}") ;;
            open) open+=("${text//:/\\:}${about:+:$about}") ;;
            file) _files ;;
            dir) _files -/ ;;
        esac
    done < <(${~${(Q)words[1]}} __complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null </dev/null)
    (( $#values )) && _describe -V taskforge values
    (( $#open )) && _describe -V taskforge open -S ''
    return 0
}
if [[ "${zsh_eval_context[-1]}" == loadautofunc ]]; then
    _taskforge "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
    compdef _taskforge taskforge
fi
"""
_FISH = r"""# taskforge: completion for fish. For this session:   taskforge completion fish | source
# For every session:   taskforge completion fish > ~/.config/fish/completions/taskforge.fish
function __taskforge_completion
    set -l words (commandline -opc)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    for line in ($program __complete fish $words[2..] (commandline -ct) 2>/dev/null </dev/null)
        set -l parts (string split \t -- $line)
        switch $parts[1]
            case value open
                printf '%s\t%s\n' $parts[2] "$parts[3]"
            case file
                __fish_complete_path (commandline -ct)
            case dir
                __fish_complete_directories (commandline -ct)
        end
    end
end
complete -c taskforge -f -k -a '(__taskforge_completion)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@command(
    "completion",
    examples=[
        Example("source <(taskforge completion bash)", "in ~/.bashrc"),
        Example("source <(taskforge completion zsh)", "in ~/.zshrc, after compinit"),
        Example("taskforge completion fish > ~/.config/fish/completions/taskforge.fish", "once"),
    ],
)
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
@pass_session
def completion(session: Session, shell: str) -> None:
    """Print the script that completes commands in a shell.

    It completes commands, options and choices, and from the server the names of what there is: workflows, runs,
    secrets and more. Without a server, or with one that is slow, there are no names.
    """
    screen = session.screen
    if session.machine:
        screen.document({"shell": shell, "script": SCRIPTS[shell]})
        return
    screen.text(SCRIPTS[shell])
    if screen.columns is not None:
        line = next(line for line in SCRIPTS[shell].splitlines() if "For this session:" in line)
        screen.note(Paint("  use it: ", "dim"), line.partition("session:")[2].strip())
