// Package api holds nothing itself: its folders are the wire API, each a .proto
// file, which is the specification, and the Go code generated from it by
// "make generate". It imports nothing of this project.
package api

//go:generate go -C gen run . -src .. -out ..
