package control

import "context"

// Explain lets a test show the client an error that root cannot provoke.
func (c *Client) Explain(ctx context.Context, err error) error { return c.explain(ctx, err) }
