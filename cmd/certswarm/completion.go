package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// completionFlag, as the last word, has the program print what could stand in its place instead of doing anything. The name
// is cli's; its own answer looks at os.Args and knows nothing of flags that stand before a command.
const completionFlag = "--generate-bash-completion"

func completionCommand() *cli.Command {
	shells := map[string]func(*cli.App) (string, error){
		"bash": func(*cli.App) (string, error) { return bashCompletion, nil },
		"zsh":  func(*cli.App) (string, error) { return zshCompletion, nil },
		"fish": (*cli.App).ToFishCompletion,
	}
	return &cli.Command{
		Name:      "completion",
		Usage:     "prints what makes a shell complete this program's commands and flags: bash, zsh or fish",
		ArgsUsage: "SHELL",
		Description: "bash:  certswarm completion bash > /etc/bash_completion.d/certswarm\n" +
			"zsh:   certswarm completion zsh > \"${fpath[1]}/_certswarm\"\n" +
			"fish:  certswarm completion fish > ~/.config/fish/completions/certswarm.fish",
		Action: func(c *cli.Context) error {
			script, known := shells[c.Args().First()]
			if !known || c.NArg() != 1 {
				return fail(exitUsage, "completion needs a shell: bash, zsh or fish")
			}
			text, err := script(c.App)
			if err != nil {
				return fmt.Errorf("completion for %s: %w", c.Args().First(), err)
			}
			_, err = io.WriteString(c.App.Writer, text)
			return err
		},
	}
}

// completing reports whether args ask for completion.
func completing(args []string) bool {
	return len(args) > 1 && args[len(args)-1] == completionFlag
}

// complete prints what may stand next after the words of args: the flags that a last word with a dash could become, else
// the commands that there are. Nothing means a file, or something only a person knows.
func complete(app *cli.App, args []string) error {
	here := &cli.Command{Flags: app.Flags, Subcommands: app.Commands}
	for words := args[1 : len(args)-1]; len(words) > 0; {
		word := words[0]
		words = words[1:]
		valued := strings.HasPrefix(word, "-") && takesValue(here, word)
		switch {
		case valued && len(words) > 0:
			words = words[1:]
		case valued:
			return nil
		case strings.HasPrefix(word, "-") && len(words) == 0 && !hasFlag(here, strings.TrimLeft(word, "-")):
			return suggestFlags(app.Writer, here, strings.TrimLeft(word, "-"))
		case strings.HasPrefix(word, "-"):
		default:
			below := find(here.Subcommands, word)
			if below == nil {
				return nil
			}
			here = below
		}
	}
	for _, command := range here.Subcommands {
		if _, err := fmt.Fprintln(app.Writer, command.Name); err != nil {
			return err
		}
	}
	return nil
}

func suggestFlags(out io.Writer, command *cli.Command, begun string) error {
	for _, flag := range command.Flags {
		if name := flag.Names()[0]; strings.HasPrefix(name, begun) {
			if _, err := fmt.Fprintln(out, "--"+name); err != nil {
				return err
			}
		}
	}
	return nil
}

const bashCompletion = `# bash completion of certswarm
_certswarm() {
	local current=${COMP_WORDS[COMP_CWORD]} begun=()
	[[ $current == -* ]] && begun=("$current")
	local words
	words=$("${COMP_WORDS[@]:0:COMP_CWORD}" "${begun[@]}" --generate-bash-completion 2>/dev/null)
	COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o bashdefault -o default -F _certswarm certswarm
`

const zshCompletion = `#compdef certswarm
# zsh completion of certswarm
_certswarm() {
	local current=${words[CURRENT]}
	local -a begun found
	[[ $current == -* ]] && begun=("$current")
	found=("${(@f)$("${(@)words[1,CURRENT-1]}" "${begun[@]}" --generate-bash-completion 2>/dev/null)}")
	if [[ -n ${found[1]} ]]; then
		compadd -- "${found[@]}"
	else
		_files
	fi
}
if [[ $funcstack[1] == _certswarm ]]; then
	_certswarm "$@"
else
	compdef _certswarm certswarm
fi
`
