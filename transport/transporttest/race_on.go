//go:build race || asan

package transporttest

const instrumented = true
