package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var (
	processor        = regexp.MustCompile(`(?m)^model name\s*: (.*)$`)
	series           = regexp.MustCompile(`^\d+\.\d+`) // of Linux
	syncthingVersion = regexp.MustCompile(`syncthing v([\d.]+)`)
	rsyncVersion     = regexp.MustCompile(`version ([\d.]+)`)
	legoVersion      = regexp.MustCompile(`version (\S+)`)
)

// describe says on what machine, which disk, and with which programs the figures come about.
func describe(ctx context.Context, dir string) (string, error) {
	kind, err := fileSystem(dir)
	if err != nil {
		return "", err
	}
	if kind == "tmpfs" || kind == "ramfs" {
		return "", fmt.Errorf("%s is in memory (%s), where it costs nothing to make files durable: use -dir", dir, kind)
	}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return "", err
	}
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := processor.FindSubmatch(text); m != nil {
			model = string(m[1])
		}
	}
	versions, err := versions(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Measured on %s: %d cores (%s), %s, Linux %s, %s; %s. All nodes share them.",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), model, kind, series.FindString(unix.ByteSliceToString(kernel.Release[:])), runtime.Version(), versions), nil
}

func versions(ctx context.Context) (string, error) {
	var all []string
	for _, p := range []struct {
		name    string
		pattern *regexp.Regexp
	}{{"syncthing", syncthingVersion}, {"rsync", rsyncVersion}, {"lego", legoVersion}} {
		output, err := exec.CommandContext(ctx, p.name, "--version").Output()
		if err != nil {
			return "", fmt.Errorf("%s has no version: %w", p.name, err)
		}
		m := p.pattern.FindSubmatch(output)
		if m == nil {
			return "", fmt.Errorf("%s says of its version: %s", p.name, output)
		}
		all = append(all, p.name+" "+string(m[1]))
	}
	return strings.Join(all, ", "), nil
}

// fileSystem is the type of the file system that holds dir, as proc_pid_mountinfo(5) calls it.
func fileSystem(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", err
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	for line := range strings.Lines(string(text)) {
		mount, details, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(mount); len(fields) > 2 && fields[2] == device {
			return strings.Fields(details)[0], nil
		}
	}
	return "", errors.New("no mount point has the device of " + dir)
}
