package podnet

import (
	"errors"
	"fmt"
)

// Journal runs steps and remembers how to undo them. The zero value is ready.
type Journal struct {
	// Before, when set, is asked before and after each step ("after NAME"); its
	// error fails the step. Tests fail every step with it.
	Before func(step string) error

	undo []entry
}

type entry struct {
	step string
	do   func() error
}

// Do runs a step. Its undo, which may be nil, is remembered before the step
// begins: a step that fails halfway is undone as well, so undo must bear that
// nothing or only a part was done.
func (j *Journal) Do(step string, do, undo func() error) error {
	if err := j.ask(step); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	if undo != nil {
		j.undo = append(j.undo, entry{step, undo})
	}
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	if err := j.ask("after " + step); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	return nil
}

func (j *Journal) ask(step string) error {
	if j.Before == nil {
		return nil
	}
	return j.Before(step)
}

// Undo undoes every step in reverse order and forgets them. One that fails
// does not keep the others from being undone.
func (j *Journal) Undo() error {
	var errs []error
	for i := len(j.undo) - 1; i >= 0; i-- {
		if err := j.undo[i].do(); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", j.undo[i].step, err))
		}
	}
	j.undo = nil
	return errors.Join(errs...)
}
