package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// get reads JSON from a URL.
func get(ctx context.Context, url string, into any) error {
	b, err := fetch(ctx, url)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	return nil
}

// fetch reads what lies at a URL.
func fetch(ctx context.Context, url string) (b []byte, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("asking %s: %w", url, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() // read to its end
	if b, err = io.ReadAll(res.Body); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answered %s", res.Status)
	}
	return b, err
}
