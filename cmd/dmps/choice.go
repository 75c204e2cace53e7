package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/meta/metaclient"
)

// choice is a flag with a few allowed values.
type choice struct {
	value   string
	allowed []string
}

func newChoice(value string, allowed ...string) choice { return choice{value, allowed} }

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return "string" }
func (c *choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("must be %s", strings.Join(c.allowed, " or "))
	}
	c.value = s
	return nil
}

// completeChoice offers fixed values for a flag. The flag must exist.
func completeChoice(cmd *cobra.Command, flag string, values []string) {
	complete(cmd, flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// noCompletion says that file names are no values of these flags.
func noCompletion(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		complete(cmd, f, cobra.NoFileCompletions)
	}
}

func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag does not exist: a mistake in this package
	}
}

// completionPatience bounds how long a shell waits for names.
const completionPatience = time.Second

// completeNames offers names that the metadata service knows for the first
// argument. Without an answer it offers nothing.
func (a *app) completeNames(list func(context.Context, *metaclient.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		meta, err := a.meta()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer meta.Close()
		names, err := list(ctx, meta)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// volumeNames and serverIDs list what completions offer, with a description
// behind a tab.
func volumeNames(ctx context.Context, meta *metaclient.Client) ([]string, error) {
	volumes, err := meta.Volumes(ctx)
	var names []string
	for _, v := range volumes {
		names = append(names, fmt.Sprintf("%s\t%s %s, %s", v.Name, v.Redundancy, v.Layout, v.State))
	}
	return names, err
}

func serverIDs(ctx context.Context, meta *metaclient.Client) ([]string, error) {
	servers, err := meta.Servers(ctx)
	var ids []string
	for _, s := range servers {
		ids = append(ids, fmt.Sprintf("%s\t%s, %s", s.ID, s.Addr, s.State))
	}
	return ids, err
}
