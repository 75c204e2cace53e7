package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Orders are what a client's admin address takes by POST: rebuild, scrub,
// detach.

// reply is a client's answer to an order.
type reply struct {
	code   int
	status string
	body   []byte
}

// err is what a client says that did not do what it was told.
func (r reply) err() error {
	return fmt.Errorf("it answered %s: %s", r.status, strings.TrimSpace(string(r.body)))
}

// post gives the client at an admin address an order; body may be nil.
func post(ctx context.Context, base, path string, body io.Reader, patience time.Duration) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	res, err := askAdmin(base, func(base string) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, body)
		if err == nil && body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		return req, err
	})
	if err != nil {
		return reply{}, err
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAdminStatus))
	return reply{res.StatusCode, res.Status, text}, errors.Join(err, res.Body.Close())
}
