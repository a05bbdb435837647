package main

import (
	"log"
	"time"
)

// Retried calls until an answer arrives: the connection may break, and a request has its key.
func retried[T any](call func() (T, error)) T {
	for range 5 {
		answer, err := call()
		if err == nil {
			return answer
		}
		log.Print(err)
		time.Sleep(100 * time.Millisecond)
	}
	log.Fatal("no answer")
	panic("unreachable")
}
