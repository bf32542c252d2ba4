package servers

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What follows is read from /proc and needs Linux.

// CPU is the processor time that the process has used, in user and system mode, in steps of 10 ms.
func (s *Server) CPU(t *testing.T) time.Duration {
	t.Helper()
	const tick = 10 * time.Millisecond // on every Linux
	stat := s.proc(t, "stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // behind the name, which may hold anything
	return time.Duration(number(t, fields[11])+number(t, fields[12])) * tick
}

// Resident is the memory of the process that is not swapped out or never touched, in bytes.
func (s *Server) Resident(t *testing.T) int64 {
	t.Helper()
	return number(t, strings.Fields(s.proc(t, "statm"))[1]) * int64(os.Getpagesize())
}

// Written is how many bytes the process made the disk write, or will.
func (s *Server) Written(t *testing.T) int64 {
	t.Helper()
	_, rest, _ := strings.Cut(s.proc(t, "io"), "\nwrite_bytes: ")
	text, _, _ := strings.Cut(rest, "\n")
	return number(t, text)
}

func (s *Server) proc(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.process.Process.Pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(content))
}

func number(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Peak is the most memory that the process ever had, as in Resident.
func (s *Server) Peak(t *testing.T) int64 {
	t.Helper()
	_, rest, _ := strings.Cut(s.proc(t, "status"), "\nVmHWM:")
	text, _, _ := strings.Cut(rest, "kB")
	return number(t, strings.TrimSpace(text)) << 10
}
