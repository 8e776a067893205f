package ctl

import (
	"context"
	"fmt"
	"io"
	"time"

	"stockbridge/pkg/bus"
)

type pushCmd[N noun] struct {
	File string `name:"file" short:"f" required:"" type:"path" placeholder:"FILE" help:"JSON, one document a line or laid out; - reads standard input."`
	From int    `default:"1" placeholder:"LINE" help:"Begin at this line."`
}

func (pushCmd[N]) Help() string {
	r := rowFor[N]()
	return fmt.Sprintf(`Publishes %[1]s.audited for each %[2]s, in the file's order, and waits until each is stored. One that is wrong in
itself is not published: its line and field are printed to stderr, the others are published, and the command ends 1.

After an interruption, run it again with the same file: each has an id made from its numbers and its content. The broker
recognises a repeat for a moment, the ledger for as long as it remembers: nothing is sent to a warehouse twice. One
that was changed is published again.`, r.Name, r.EN)
}

func (c pushCmd[N]) Run(ctx context.Context, a *app) error {
	r := rowFor[N]()
	file, err := a.open(c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	var done struct {
		Published int `json:"published"`
		// Repeated were in the stream already.
		Repeated int        `json:"repeated"`
		Wrong    []lineJSON `json:"wrong"`
		// Next is the first line that was not read; 0 when all were.
		Next int `json:"next,omitempty"`
	}
	done.Wrong = []lineJSON{}
	said := a.now()
	for d, err := range documents(file) {
		if err != nil {
			return hint(err, "%d were published before; lines before it need not be pushed again", done.Published+done.Repeated)
		}
		if d.line < c.From {
			continue
		}
		stored, found, err := r.push(ctx, b, d)
		if err != nil {
			a.note("%d published, %d were there already, %d wrong", done.Published, done.Repeated, len(done.Wrong))
			return hint(fmt.Errorf("line %d: %w", d.line, err), "the same command continues where this one stopped; --from %d skips what is done", d.line)
		}
		switch {
		case len(found) > 0:
			l := lineJSON{Line: d.line}
			for _, err := range found {
				f := findingOf(err)
				l.Findings = append(l.Findings, f)
				a.note("line %d: %s", d.line, a.say(f.reason()))
			}
			done.Wrong = append(done.Wrong, l)
		case stored:
			done.Published++
		default:
			done.Repeated++
		}
		if now := a.now(); now.Sub(said) >= time.Second {
			said = now
			a.note("line %d: %d published", d.line, done.Published)
		}
	}
	if err := a.show(done, func(w io.Writer) error {
		fmt.Fprintf(w, "published %s", count(done.Published, r.EN))
		if done.Repeated > 0 {
			fmt.Fprintf(w, "; %d were there already", done.Repeated)
		}
		if len(done.Wrong) > 0 {
			fmt.Fprintf(w, "; %d wrong and not published", len(done.Wrong))
		}
		_, err := fmt.Fprintln(w)
		return err
	}); err != nil {
		return err
	}
	if len(done.Wrong) > 0 {
		return errWrong
	}
	return nil
}

// lineJSON is a line of a file that was not published.
type lineJSON struct {
	Line     int       `json:"line"`
	Findings []finding `json:"findings"`
}

// push publishes one document unchanged, so that the ERP's own fields survive. stored is false when the stream has it
// already.
func (r *row) push(ctx context.Context, b *bus.Bus, d document) (stored bool, found []error, err error) {
	m, found := r.read(d.text)
	if len(found) > 0 {
		return false, found, nil
	}
	e := r.audited(m, d.text)
	stored, _, err = b.PublishRaw(ctx, e.Subject(), headerOf(e), d.text)
	return stored, nil, err
}
