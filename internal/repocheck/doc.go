// Package repocheck holds the tests that look at the repository itself.
//
// TestImportRules keeps the layers apart: rules in imports_test.go say which
// package may import which, each with its reason. A package that no rule names
// fails the test, so a new folder needs a decision.
//
// TestDocSymbols and TestDocLinks keep the documentation true: a Go symbol
// that a Markdown file names in code, such as raid.Layout between backquotes,
// must exist, and a relative link must lead somewhere. TestDocProse refuses
// references to line numbers, which are wrong after the next commit, and
// TestNoMergeMarkers what a merge left undecided.
//
// TestSizes keeps files below 600 lines, and functions that are no tests below 80.
//
// There is nothing to import here.
package repocheck
