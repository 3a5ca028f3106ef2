package real_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"certswarm/testnet/real"
)

// BenchmarkPropagation measures how long a file of 6 kB takes from the rename on one node until it is readable on both
// others: files that come one at a time, as certificates do, and files that come as soon as the one before them has
// arrived, while everybody is still busy making that durable. The distribution is what matters.
func BenchmarkPropagation(b *testing.B) {
	b.Run("single", func(b *testing.B) { propagate(b, 20*time.Millisecond) })
	b.Run("stream", func(b *testing.B) { propagate(b, 0) })
}

func propagate(b *testing.B, pause time.Duration) {
	w := start(b, real.Config{Addresses: addresses(3)})
	w.await(real.Synced)
	arrivals := make(chan arrival, 64)
	for _, n := range w.Nodes[1:] {
		watch(b, n.Certs, arrivals)
	}
	var took []time.Duration
	strays := 0 // temporary files that travelled although they were renamed at once
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		time.Sleep(pause)
		b.StartTimer()
		name := fmt.Sprintf("file-%d", i%100)
		target := filepath.Join(w.Nodes[0].Certs, name)
		temporary := filepath.Join(w.Nodes[0].Certs, "."+name+".tmp")
		content := strings.Repeat(fmt.Sprintf("this is line %06d of a chain\n", i), 6000/29) // what is not new does not travel
		w.must(os.WriteFile(temporary, []byte(content), 0o644))
		begun := time.Now()
		w.must(os.Rename(temporary, target))
		var last time.Time
		for range w.Nodes[1:] {
			a := w.next(arrivals)
			for ; a.name != name; a = w.next(arrivals) {
				strays++
			}
			last = a.at
		}
		took = append(took, last.Sub(begun))
	}
	b.ReportMetric(float64(strays)/float64(len(took)), "strays/op")
	slices.Sort(took)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50-ms", 0.5}, {"p90-ms", 0.9}, {"p99-ms", 0.99}, {"max-ms", 1}} {
		value := took[min(int(q.at*float64(len(took))), len(took)-1)]
		b.ReportMetric(float64(value.Microseconds())/1000, q.name)
	}
}

// next is the next arrival.
func (w *world) next(arrivals <-chan arrival) arrival {
	select {
	case a := <-arrivals:
		return a
	case <-w.ctx.Done():
		w.t.Fatal("a file did not arrive everywhere")
		return arrival{}
	}
}

// arrival is a file that got its name.
type arrival struct {
	name string
	at   time.Time
}

// watch sends what gets its name in dir, until the benchmark ends. A replicated file is whole when it gets its name, so
// that is when it can be read.
func watch(b *testing.B, dir string, arrivals chan<- arrival) {
	b.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := syscall.InotifyAddWatch(fd, dir, syscall.IN_MOVED_TO); err != nil {
		b.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	ended := make(chan struct{})
	b.Cleanup(func() {
		_ = file.Close() // wakes the reader
		<-ended
	})
	go func() {
		defer close(ended)
		events := make([]byte, 64<<10)
		for {
			n, err := file.Read(events)
			if err != nil {
				return
			}
			now := time.Now()
			for rest := events[:n]; len(rest) > 0; {
				end := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
				name := strings.TrimRight(string(rest[syscall.SizeofInotifyEvent:end]), "\x00")
				select {
				case arrivals <- arrival{name, now}:
				case <-b.Context().Done():
				}
				rest = rest[end:]
			}
		}
	}()
}

// BenchmarkIdle measures what an agent with 1,000 files and two peers costs when nothing happens.
func BenchmarkIdle(b *testing.B) {
	const files, idle = 1000, 20 * time.Second
	w := start(b, real.Config{Addresses: addresses(3)})
	for i := range files {
		w.write(w.Nodes[0], fmt.Sprintf("file-%d", i), strings.Repeat(fmt.Sprintln("this is line", i), 100))
	}
	w.must(w.Nodes[0].Certswarm(w.ctx, "wait", "--for", "synced").Run()) // it looks at the disk first
	w.await(real.Synced)
	for b.Loop() {
		var before []time.Duration
		for _, n := range w.Nodes {
			before = append(before, cpu(b, n.PID()))
		}
		time.Sleep(idle)
		var busiest, largest float64
		for i, n := range w.Nodes {
			busiest = max(busiest, 100*(cpu(b, n.PID())-before[i]).Seconds()/idle.Seconds())
			largest = max(largest, rss(b, n.PID()))
		}
		b.ReportMetric(busiest, "cpu-%")
		b.ReportMetric(largest, "RSS-MiB")
	}
}

// cpu is the time that a process has spent on a processor, from proc_pid_stat(5).
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	// The name may hold anything, so what counts begins after its closing parenthesis, with field 3.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const tick = time.Second / 100 // USER_HZ, the same on every machine that Linux speaks to programs of
	var ticks int64
	for _, field := range []int{14, 15} { // utime, stime
		n, err := strconv.ParseInt(fields[field-3], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick
}

// rss is a process's resident set in MiB.
func rss(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib / 1024
}
