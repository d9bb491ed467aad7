// Package eyes has the questions that people ask of a mesh with meshctl, and what
// must be in the answers: of the sample application under its own load (Live), of a
// mesh in which no pod is meshed (Empty), and questions that make no sense (Wrong).
// It owns the tables and how a question is asked; it refuses to know what kind of
// mesh is asked, so a cluster and a mesh of one machine answer the same table.
//
// Live has every command of docs/traffic.md, word for word.
package eyes
