package main

import (
	"os"

	"golang.org/x/term"
)

// isTerminal says whether somebody may be looking.
func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
