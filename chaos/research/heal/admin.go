package heal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"dmps/client"
)

// adminReport asks a client for its report.
func adminReport(ctx context.Context, base string) (*client.Report, error) {
	var s struct{ Report client.Report }
	err := call(ctx, http.MethodGet, base+"/status", func(b io.Reader) error { return json.NewDecoder(b).Decode(&s) })
	if err != nil {
		return nil, fmt.Errorf("asking the client: %w", err)
	}
	return &s.Report, nil
}

// wake has the client look for a newer layout at once.
func wake(ctx context.Context, base string) error {
	return call(ctx, http.MethodPost, base+"/rebuild", func(io.Reader) error { return nil })
}

func call(ctx context.Context, method, url string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return errors.Join(fmt.Errorf("%s %s: %s", method, url, res.Status), res.Body.Close())
	}
	return errors.Join(read(res.Body), res.Body.Close())
}
