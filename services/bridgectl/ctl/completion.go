package ctl

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// completeWord is the command that the scripts below call, with the shell's name and the words typed so far, the one at
// the cursor last. The scripts know no commands, so they stay valid for new versions.
const completeWord = "__complete"

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (completionCmd) Help() string {
	return `Put one of these where the shell reads it at its start:

  source <(bridgectl completion bash)      in ~/.bashrc
  source <(bridgectl completion zsh)       in ~/.zshrc, after compinit
  bridgectl completion fish | source       in ~/.config/fish/config.fish`
}

func (c completionCmd) Run(a *app) error {
	_, err := io.WriteString(a.Out, scripts[c.Shell])
	return err
}

var scripts = map[string]string{
	"bash": `# bash completion of bridgectl
_bridgectl() {
  local IFS=$'\n'
  COMPREPLY=($("${COMP_WORDS[0]}" __complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _bridgectl bridgectl
`,
	"zsh": `#compdef bridgectl
_bridgectl() {
  local -a found
  local line
  for line in "${(@f)$("${words[1]}" __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    [[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
  done
  if (( $#found )); then _describe bridgectl found; else _files; fi
}
if [[ $funcstack[1] == _bridgectl ]]; then _bridgectl "$@"; else compdef _bridgectl bridgectl; fi
`,
	"fish": `# fish completion of bridgectl
function __bridgectl_complete
  set -l words (commandline -opc)
  set -l found ($words[1] __complete fish $words[2..] (commandline -ct) 2>/dev/null)
  if test (count $found) -gt 0
    printf '%s\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c bridgectl -f -a '(__bridgectl_complete)'
`,
}

// complete prints the candidates for the last of words, one a line; no output means a file, or anything.
func complete(w io.Writer, model *kong.Application, shell string, words []string) {
	words, bare := joined(words)
	last := words[len(words)-1]
	node, value := walk(model.Node, words[:len(words)-1])
	prefix := ""
	if name, typed, ok := strings.Cut(last, "="); ok && value == nil && strings.HasPrefix(name, "--") {
		if value = flagOf(node, name); value == nil {
			return
		}
		last = typed
		if !bare {
			prefix = name + "="
		}
	}
	offer := func(word, help string) {
		if !strings.HasPrefix(word, last) {
			return
		}
		help, _, _ = strings.Cut(help, "\n")
		if shell == "bash" || help == "" {
			fmt.Fprintln(w, prefix+word)
			return
		}
		fmt.Fprintln(w, prefix+word+"\t"+help)
	}
	values := func(v *kong.Value) {
		if v.Enum == "" {
			return
		}
		for _, word := range v.EnumSlice() {
			if word != "" {
				offer(word, "")
			}
		}
	}
	switch {
	case value != nil:
		values(value)
	case strings.HasPrefix(last, "-"):
		for _, group := range node.AllFlags(true) {
			for _, f := range group {
				offer("--"+f.Name, f.Help)
			}
		}
	default:
		for _, child := range node.Children {
			if !child.Hidden {
				offer(child.Name, child.Help)
			}
		}
		for _, p := range node.Positional {
			values(p)
		}
	}
}

// joined restores --flag=value, which bash passes as three words. It reports whether it did so for the last word: bash
// then wants only the value.
func joined(words []string) (out []string, bare bool) {
	for i, word := range words {
		after := i > 0 && words[i-1] == "=" && len(out) > 0 && strings.HasSuffix(out[len(out)-1], "=")
		bare = word == "=" && len(out) > 0 && strings.HasPrefix(out[len(out)-1], "--") || after
		if bare {
			out[len(out)-1] += word
		} else {
			out = append(out, word)
		}
	}
	if len(out) == 0 {
		out = []string{""}
	}
	return out, bare
}

// walk follows the words before the cursor and returns the command that they lead to, and the flag that still needs its
// value.
func walk(node *kong.Node, words []string) (*kong.Node, *kong.Value) {
	var wanting *kong.Value
	for _, word := range words {
		switch {
		case wanting != nil:
			wanting = nil
		case strings.HasPrefix(word, "-"):
			if v := flagOf(node, word); v != nil && !v.IsBool() {
				wanting = v
			}
		default:
			for _, child := range node.Children {
				if child.Name == word {
					node = child
					break
				}
			}
		}
	}
	return node, wanting
}

func flagOf(node *kong.Node, word string) *kong.Value {
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short) {
				return f.Value
			}
		}
	}
	return nil
}
