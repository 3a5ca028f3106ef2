package real

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"certswarm/testnet/frontend"
)

// frontEnd returns the program that plays the front-ends, made ready in dir if it is the stand-in: this executable, by
// the name of nginx, for an agent tells a running nginx by that.
func frontEnd(wanted, dir string) (string, error) {
	if wanted == "" {
		wanted = frontend.Standin
		if found, ok := frontend.HaveNginx(); ok {
			wanted = found
		}
	}
	if wanted != frontend.Standin {
		return wanted, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot tell which executable the stand-in is: %w", err)
	}
	link := filepath.Join(dir, "standin", "nginx")
	if err := os.Mkdir(filepath.Dir(link), 0o755); err != nil {
		return "", err
	}
	if err := os.Symlink(self, link); err != nil {
		return "", err
	}
	program := filepath.Join(dir, "nginx")
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' %s \"$@\"\n", strings.ReplaceAll(link, "'", `'\''`), frontend.Standin)
	return program, os.WriteFile(program, []byte(script), 0o755)
}
