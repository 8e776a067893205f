// Command check judges a recorded run: for each promise how much was checked and what broke, with the lines that show
// it. It reads only the folder.
//
//	check [-o json] [-require P1,P2] DIR
//
// It exits 1 when a promise broke, and 2 when the history is incomplete, too short or has too many gaps to decide, or
// when nothing was checked for a required promise.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"stockbridge/services/e2e/checker"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	flags.SetOutput(errs)
	format := flags.String("o", "table", "table or json")
	require := flags.String("require", "", "promises, comma-separated, of which something must have been checked")
	flags.Usage = func() {
		fmt.Fprintln(errs, "check [-o table|json] [-require P1,P2] DIR")
		flags.PrintDefaults()
	}
	if flags.Parse(args) != nil {
		return 2
	}
	if flags.NArg() != 1 || *format != "table" && *format != "json" {
		flags.Usage()
		return 2
	}
	r, err := checker.Read(flags.Arg(0))
	if err != nil {
		fmt.Fprintf(errs, "check: %v\n", err)
		return 2
	}
	if *format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		err = r.Print(out)
	}
	if err != nil {
		fmt.Fprintf(errs, "check: %v\n", err)
		return 2
	}
	if broken := r.Broken(); len(broken) > 0 {
		fmt.Fprintf(errs, "check: broken: %s\n", strings.Join(broken, ", "))
		return 1
	}
	if undecided := r.Undecided(); len(undecided) > 0 {
		fmt.Fprintf(errs, "check: the history does not decide %s\n", strings.Join(undecided, ", "))
		return 2
	}
	if *require != "" {
		if missing := r.Missing(strings.Split(*require, ",")); len(missing) > 0 {
			fmt.Fprintf(errs, "check: nothing was checked of %s\n", strings.Join(missing, ", "))
			return 2
		}
	}
	return 0
}
