package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

// Chronicler is implemented by a Daemon that remembers what happened.
type Chronicler interface {
	Chronicle() *Chronicle
}

// events answers with one line of JSON for each event; with follow=1 it stays, and an empty line says that nothing happened.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	chronicler, ok := s.daemon.(Chronicler)
	if !ok {
		s.answer(w, http.StatusUnprocessableEntity, refusal{Error: "this daemon remembers no events"})
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	follow := r.URL.Query().Get("follow") == "1"
	err := tellEvents(r.Context(), chronicler.Chronicle(), follow, http.NewResponseController(w), w)
	s.log.Debug("whoever read the events left", "reason", err)
}

// flusher is what tellEvents needs of a http.ResponseController.
type flusher interface {
	SetWriteDeadline(time.Time) error
	Flush() error
}

func tellEvents(ctx context.Context, chronicle *Chronicle, follow bool, line flusher, out io.Writer) error {
	told := uint64(0)
	lines := json.NewEncoder(out)
	for {
		events, more := chronicle.After(told)
		if err := line.SetWriteDeadline(time.Now().Add(lineTimeout)); err != nil {
			return err
		}
		for _, e := range events {
			if err := lines.Encode(e); err != nil {
				return err
			}
			told = e.Seq
		}
		if !follow {
			return line.Flush()
		}
		if len(events) == 0 {
			if _, err := io.WriteString(out, "\n"); err != nil {
				return err
			}
		}
		if err := line.Flush(); err != nil {
			return err
		}
		if err := sleep(ctx, more, streamHeartbeat); err != nil {
			return err
		}
	}
}

// Events calls next with each event that the daemon remembers, oldest first, and with follow also with each that happens
// from then on, until next returns false or ctx ends, which is its error. A daemon that ends or falls silent is
// ErrNoDaemon (wrapped).
func (c *Client) Events(ctx context.Context, follow bool, next func(Event) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(askTimeout, func() { cancel(errSilent) })
	defer silence.Stop()
	target := "/v1/events"
	if follow {
		target += "?follow=1"
	}
	response, err := c.send(ctx, http.MethodGet, target)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it was only read from
	for lines := bufio.NewReader(response.Body); ; {
		line, err := lines.ReadBytes('\n')
		silence.Reset(streamHeartbeat + askTimeout)
		if errors.Is(err, io.EOF) && !follow && len(line) == 0 {
			return nil
		}
		if err != nil {
			return c.explain(ctx, err)
		}
		if len(line) == 1 {
			continue
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return c.explain(ctx, err)
		}
		if !next(e) {
			return nil
		}
	}
}
