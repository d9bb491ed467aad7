// Package emoji is generated from emoji.proto, which documents it.
package emoji
