package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"certswarm/testnet/real"
)

// syncthing is Syncthing, set up to be as fast as it can: no other discovery than the addresses, no compression, no niceness, no
// progress to report. Debian's version waits for a second at least after it noticed something; so it need not notice, but is told by its API
// at once.
type syncthing struct{}

func (syncthing) name() string { return syncthingName }

// device is a node that runs Syncthing.
type device struct {
	ID      string
	Name    string
	Address string
	Port    int // TCP, for the other devices
	API     int // TCP
	Dir     string
	home    string
	end     func() error // nil while it does not run
	pid     int
	met     chan meeting
}

// meeting is the connection with another device.
type meeting struct {
	device string
	at     time.Time
}

type devices []*device

const (
	folder = "certs"
	apiKey = "versus"
)

var syncthingConfig = template.Must(template.New("config.xml").Parse(`<configuration version="36">
  <folder id="{{.Folder}}" path="{{.Self.Dir}}" type="sendreceive" rescanIntervalS="0" fsWatcherEnabled="false">
    {{- range .All}}
    <device id="{{.ID}}"></device>
    {{- end}}
    <minDiskFree unit="%">0</minDiskFree>
    <scanProgressIntervalS>-1</scanProgressIntervalS>
    <order>oldestFirst</order>
    <weakHashThresholdPct>101</weakHashThresholdPct>
    <disableFsync>{{not .Durable}}</disableFsync>
    <disableTempIndexes>true</disableTempIndexes>
  </folder>
  {{- range .All}}
  <device id="{{.ID}}" name="{{.Name}}" compression="never">
    <address>tcp://{{.Address}}:{{.Port}}</address>
  </device>
  {{- end}}
  <gui enabled="true" tls="false">
    <address>{{.Self.Address}}:{{.Self.API}}</address>
    <apikey>{{.Key}}</apikey>
  </gui>
  <options>
    <listenAddress>tcp://{{.Self.Address}}:{{.Self.Port}}</listenAddress>
    <globalAnnounceEnabled>false</globalAnnounceEnabled>
    <localAnnounceEnabled>false</localAnnounceEnabled>
    <relaysEnabled>false</relaysEnabled>
    <natEnabled>false</natEnabled>
    <urAccepted>-1</urAccepted>
    <autoUpgradeIntervalH>0</autoUpgradeIntervalH>
    <crashReportingEnabled>false</crashReportingEnabled>
    <startBrowser>false</startBrowser>
    <reconnectionIntervalS>5</reconnectionIntervalS>
    <progressUpdateIntervalS>-1</progressUpdateIntervalS>
    <setLowPriority>false</setLowPriority>
  </options>
</configuration>
`))

func (syncthing) start(ctx context.Context, dir string, nodes int, o startOptions) (swarm, error) {
	var all devices
	for i, address := range real.Loopback(nodes) {
		d := &device{Name: fmt.Sprintf("st%d", i+1), Address: address}
		d.home, d.Dir = filepath.Join(dir, d.Name, "home"), filepath.Join(dir, d.Name, "certs")
		for _, made := range []string{d.home, filepath.Join(d.Dir, ".stfolder")} {
			if err := os.MkdirAll(made, 0o755); err != nil {
				return nil, err
			}
		}
		if err := d.identify(ctx); err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	for _, self := range all {
		if err := all.configure(self, o.durable); err != nil {
			return nil, err
		}
	}
	for _, d := range all {
		if err := d.launch(ctx); err != nil {
			return nil, closing(err, all)
		}
	}
	for _, d := range all[1:] {
		if _, err := d.awaitMeeting(ctx, all[0]); err != nil {
			return nil, closing(err, all)
		}
	}
	return all, nil
}

// identify makes the device's key, and finds ports for it.
func (d *device) identify(ctx context.Context) (err error) {
	if d.Port, err = freePort(d.Address); err != nil {
		return err
	}
	if d.API, err = freePort(d.Address); err != nil {
		return err
	}
	if output, err := exec.CommandContext(ctx, "syncthing", "generate", "--home", d.home, "--no-default-folder", "--skip-port-probing").CombinedOutput(); err != nil {
		return fmt.Errorf("%s has no key: %w\n%s", d.Name, err, output)
	}
	id, err := exec.CommandContext(ctx, "syncthing", "serve", "--home", d.home, "--device-id").Output()
	d.ID = strings.TrimSpace(string(id))
	return err
}

func (all devices) configure(self *device, durable bool) error {
	var text strings.Builder
	err := syncthingConfig.Execute(&text, map[string]any{"Self": self, "All": all, "Durable": durable, "Folder": folder, "Key": apiKey})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(self.home, "config.xml"), []byte(text.String()), 0o600)
}

// launch starts the program and returns when it answers.
func (d *device) launch(ctx context.Context) error {
	command := exec.Command("syncthing", "serve", "--home", d.home, "--no-browser", "--no-upgrade", "--logflags", "0")
	command.Env = append(os.Environ(), "STMONITORED=1") // one process, not two
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	end, err := begin(command)
	if err != nil {
		return err
	}
	d.pid, d.met = command.Process.Pid, make(chan meeting, 1000)
	starting, ended := context.WithCancelCause(ctx)
	listened := make(chan error, 1)
	go func() {
		listened <- d.listen(output)
		ended(errors.New("it ended"))
	}()
	d.end = func() error {
		_ = command.Process.Signal(syscall.SIGTERM)
		return errors.Join(<-listened, end()) // what it says must be read to its end before it is waited for
	}
	if err := awaitPort(starting, d.Address, d.API); err != nil {
		said, _ := os.ReadFile(d.log())
		return fmt.Errorf("%s did not start: %w\n%s", d.Name, err, said)
	}
	return nil
}

func (d *device) log() string { return filepath.Join(d.home, "log") }

// listen keeps the log, and notes with whom the device is connected when it says so.
func (d *device) listen(output io.Reader) error {
	log, err := os.OpenFile(d.log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	for lines := bufio.NewScanner(output); lines.Scan(); {
		now := time.Now()
		if _, after, ok := strings.Cut(lines.Text(), "Established secure connection to "); ok {
			d.met <- meeting{strings.Fields(after)[0], now}
		}
		if _, err := fmt.Fprintln(log, lines.Text()); err != nil {
			return err
		}
	}
	return nil
}

func (d *device) awaitMeeting(ctx context.Context, other *device) (time.Time, error) {
	for {
		select {
		case m := <-d.met:
			if strings.HasPrefix(other.ID, m.device) {
				return m.at, nil
			}
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%s and %s did not meet: %w", d.Name, other.Name, context.Cause(ctx))
		}
	}
}

// call asks the program something; answer may be nil.
func (d *device) call(ctx context.Context, method, path string, query url.Values, answer any) error {
	at := url.URL{Scheme: "http", Host: net.JoinHostPort(d.Address, strconv.Itoa(d.API)), Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, at.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("X-API-Key", apiKey)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s of %s answers %s: %s", path, d.Name, response.Status, text)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// pause is longer than Syncthing gathers changes after it has sent some.
func (devices) pause() time.Duration { return 300 * time.Millisecond }

// Close implements swarm.
func (all devices) Close() error {
	var errs []error
	for _, d := range all {
		if d.end != nil {
			errs = append(errs, d.end())
			d.end = nil
		}
	}
	return errors.Join(errs...)
}

// Dirs implements load.Swarm.
func (all devices) Dirs() []string {
	var dirs []string
	for _, d := range all {
		dirs = append(dirs, d.Dir)
	}
	return dirs
}

// PIDs implements load.Swarm.
func (all devices) PIDs() []int {
	var pids []int
	for _, d := range all {
		pids = append(pids, d.pid)
	}
	return pids
}

// Stop implements load.Swarm.
func (all devices) Stop(node int) error {
	err := all[node].end()
	all[node].end = nil
	return err
}

// Start implements load.Swarm.
func (all devices) Start(ctx context.Context, node int) (time.Time, error) {
	if err := all[node].launch(ctx); err != nil {
		return time.Time{}, err
	}
	return all[node].awaitMeeting(ctx, all[0])
}

// Traffic implements load.Swarm, as the programs count it themselves: without what TLS and TCP add.
func (all devices) Traffic(ctx context.Context) (int64, error) {
	var counts struct {
		Total struct{ InBytesTotal, OutBytesTotal int64 }
	}
	err := all[1].call(ctx, http.MethodGet, "/rest/system/connections", nil, &counts)
	return counts.Total.InBytesTotal + counts.Total.OutBytesTotal, err
}

// Look implements load.Swarm.
func (all devices) Look(ctx context.Context) error { return all.Tell(ctx, "") }

// Tell implements load.Told.
func (all devices) Tell(ctx context.Context, path string) error {
	query := url.Values{"folder": {folder}}
	if path != "" {
		query.Set("sub", path)
	}
	return all[0].call(ctx, http.MethodPost, "/rest/db/scan", query, nil)
}

// Settle implements load.Swarm.
func (all devices) Settle(ctx context.Context) error {
	const pause = 2 * time.Millisecond
	for _, d := range all[1:] {
		if d.end == nil {
			continue
		}
		for {
			var rest struct{ NeedItems, NeedDeletes int }
			if err := all[0].call(ctx, http.MethodGet, "/rest/db/completion", url.Values{"folder": {folder}, "device": {d.ID}}, &rest); err != nil {
				return err
			}
			if rest.NeedItems+rest.NeedDeletes == 0 {
				break
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return fmt.Errorf("%s lacks %d files: %w", d.Name, rest.NeedItems, context.Cause(ctx))
			}
		}
	}
	return nil
}
