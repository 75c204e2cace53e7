// Package procstat reads what the kernel tells of a process or thread in
// /proc/PID/stat, proc_pid_stat(5).
package procstat
