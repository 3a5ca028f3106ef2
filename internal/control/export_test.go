package control

import (
	"context"
	"time"
)

// Explain lets a test show the client an error that root cannot provoke.
func (c *Client) Explain(ctx context.Context, err error) error { return c.explain(ctx, err) }

// TellEvents follows c for a client that takes every line at once.
func TellEvents(ctx context.Context, c *Chronicle, take func(line string)) error {
	line := &lineTaker{take: take}
	return tellEvents(ctx, c, true, line, line)
}

type lineTaker struct{ take func(string) }

func (l *lineTaker) Write(p []byte) (int, error)        { l.take(string(p)); return len(p), nil }
func (l *lineTaker) Flush() error                       { return nil }
func (l *lineTaker) SetWriteDeadline(_ time.Time) error { return nil }
