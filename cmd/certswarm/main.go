// Command certswarm keeps the certificates of a fleet of nginx front-ends the same, issued, and served. This package
// is flags, exit codes and what is printed; everything else lies in the packages it calls.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

// commands are the subcommands, in the order in which the help lists them.
func commands() []*cli.Command {
	return []*cli.Command{
		identityCommand(),
		configCommand(),
		runCommand(),
		reloadCommand(),
		statusCommand(),
		peersCommand(),
		certsCommand(),
		certCommand(),
		leaseCommand(),
		waitCommand(),
		barrierCommand(),
		verifyCommand(),
		historyCommand(),
		restoreCommand(),
		resumeCommand(),
		rescanCommand(),
		eventsCommand(),
		checkCommand(),
		doctorCommand(),
		completionCommand(),
		versionCommand(),
	}
}

// run is the program: args as in os.Args, data to stdout, talk to stderr, and the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name:            "certswarm",
		HelpName:        "certswarm",
		Usage:           "keeps the certificates of nginx front-ends the same, issued, and served",
		Version:         buildVersion(),
		Commands:        commands(),
		Flags:           globalFlags(),
		Writer:          stdout,
		ErrWriter:       stderr,
		Reader:          os.Stdin,
		HideHelpCommand: true,
		Action:          unknownCommand,
		OnUsageError:    usageError,
		ExitErrHandler:  func(*cli.Context, error) {}, // the code is returned below: nothing else may exit
	}
	for _, command := range app.Commands {
		withGlobals(command)
	}
	if completing(args) {
		return exitCode(complete(app, args), stderr)
	}
	return exitCode(app.Run(flagsFirst(app, args)), stderr)
}

// exitError is a failure with the exit code that the contract gives it.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// fail returns the error that ends the program with code, after one line on stderr.
func fail(code int, format string, args ...any) error {
	return &exitError{code, fmt.Sprintf(format, args...)}
}

// exitCode says on stderr what err is, and returns the code to exit with. What is wrong with a configuration is said
// bare, one a line and the place first, so that an editor can jump there.
func exitCode(err error, stderr io.Writer) int {
	var wrong config.Errors
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintln(stderr, wrong)
		return 1
	case errors.Is(err, control.ErrConfigWrong):
		fmt.Fprintln(stderr, err)
		return 1
	}
	if errors.As(err, &exit) {
		if exit.text != "" { // else stdout has it
			fmt.Fprintf(stderr, "certswarm: %v\n", err)
		}
		return exit.code
	}
	fmt.Fprintf(stderr, "certswarm: %v\n", err)
	return 1
}
