package testnet

import (
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	_ "certswarm/internal/bubble"
)

var seeds = flag.Uint64("churn.seeds", 60/Slower, "how many fleets TestChurn troubles")

// Whatever three nodes do to their files, and whatever is done to them meanwhile, they end up with the same.
func TestChurn(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChurn(t, seed)
				for range 60 {
					c.step()
				}
				c.calm()
				c.f.Settle()
				c.f.AssertSame()
			})
		})
	}
}

type churn struct {
	f     *Fleet
	rand  *rand.Rand
	trace []string
	made  int
}

func newChurn(t *testing.T, seed uint64) *churn {
	c := &churn{rand: rand.New(rand.NewPCG(seed, 1))}
	t.Cleanup(func() { // also when it does not settle
		if t.Failed() {
			t.Logf("what happened:\n%s", strings.Join(c.trace, "\n"))
		}
	})
	c.f = New(t, Options{
		Nodes: 3, Seed: seed, Latency: time.Duration(c.rand.IntN(60)) * time.Millisecond,
		Config: func(_ int, yaml string) string { // an emptied directory is nothing special here
			return strings.Replace(yaml, "writers:", "max_delete: 100%, writers:", 1)
		},
	})
	return c
}

func (c *churn) note(format string, args ...any) {
	c.trace = append(c.trace, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// names are few, so that everything gets into the way of everything else.
func (c *churn) name() string {
	return []string{"a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/b"}[c.rand.IntN(8)]
}

func (c *churn) step() {
	i := c.rand.IntN(3)
	p, q := c.name(), c.name()
	switch n := c.rand.IntN(100); {
	case n < 30:
		c.made++
		content := fmt.Sprintf("version %d", c.made)
		if c.rand.IntN(5) == 0 {
			content = strings.Repeat(content+"\n", 10_000)
		}
		c.try(i, "write "+p, func(root string) error {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, p)), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(root, p), []byte(content), 0o644)
		})
	case n < 37:
		c.try(i, "mkdir "+p, func(root string) error { return os.MkdirAll(filepath.Join(root, p), 0o755) })
	case n < 47:
		c.try(i, "remove "+p, func(root string) error { return os.RemoveAll(filepath.Join(root, p)) })
	case n < 54:
		c.try(i, "rename "+p+" to "+q, func(root string) error {
			return os.Rename(filepath.Join(root, p), filepath.Join(root, q))
		})
	case n < 58:
		c.try(i, "link "+p, func(root string) error { return os.Symlink("a", filepath.Join(root, p)) })
	case n < 62:
		mode := []fs.FileMode{0o600, 0o644, 0o700, 0o755}[c.rand.IntN(4)]
		c.try(i, fmt.Sprintf("chmod %s to %o", p, mode), func(root string) error {
			if info, err := os.Lstat(filepath.Join(root, p)); err != nil || info.Mode().Type() == fs.ModeSymlink {
				return fs.ErrNotExist
			}
			return os.Chmod(filepath.Join(root, p), mode)
		})
	case n < 64:
		c.note("overflow on %s", name(i))
		c.f.Overflow(i)
	case n < 68:
		j := (i + 1) % 3
		c.note("cut %s from %s", name(i), name(j))
		c.f.Cut(i, j)
	case n < 72:
		c.note("heal")
		c.f.Heal()
	case n < 74:
		c.f.SetLoss(c.rand.Float64() / 4)
	case n < 80:
		c.interrupt(i)
	default:
		d := time.Duration(c.rand.ExpFloat64() * float64(time.Second))
		if c.rand.IntN(8) == 0 {
			d *= 15
		}
		c.f.Advance(d)
	}
}

// interrupt ends a node, or starts it again.
func (c *churn) interrupt(i int) {
	switch {
	case !c.f.Live(i):
		c.note("start %s", name(i))
		c.f.Start(i)
	case c.rand.IntN(3) == 0:
		c.note("stop %s", name(i))
		c.f.Stop(i)
	default:
		c.note("crash %s", name(i))
		c.f.Crash(i)
		if c.rand.IntN(3) == 0 {
			c.note("wipe %s", name(i))
			c.f.Wipe(i)
		}
	}
}

// try does something to a node's files; it may fail, for something else may stand there.
func (c *churn) try(i int, what string, do func(root string) error) {
	err := do(c.f.Path(i, "."))
	if err == nil {
		c.note("%s: %s", name(i), what)
	}
	if err := c.f.nodes[i].ears.listen(); err != nil {
		c.f.t.Fatal(err)
	}
}

// calm ends all trouble.
func (c *churn) calm() {
	c.note("calm")
	c.f.SetLoss(0)
	c.f.Heal()
	for i := range c.f.nodes {
		if !c.f.Live(i) {
			c.f.Start(i)
		}
	}
}
