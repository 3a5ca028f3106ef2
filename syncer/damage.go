package syncer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"certswarm/syncer/state"
)

// What becomes of a state database that is damaged, or gone, is the state package's; here it is told.

// noteDamageLocked keeps what became of a state database. Nothing wrong is no news.
func (d *Directory) noteDamageLocked(damage *state.Damage, now string) {
	if damage == nil {
		return
	}
	where := "it is gone"
	switch {
	case damage.Kept != "":
		d.damaged = damage.Kept
		where = "it is kept as " + filepath.Join(d.base.Dir(), damage.Kept)
	case d.damaged != "":
		where = "one before it is kept as " + filepath.Join(d.base.Dir(), d.damaged)
	}
	d.damage = &Fault{Code: StateDamaged, Since: time.Now(), Text: fmt.Sprintf("%v; %s; %s", damage, where, now)}
	d.log.Error(d.damage.Text, "problem", string(StateDamaged))
}

// recallDamage takes up again what an earlier run has set aside.
func (d *Directory) recallDamage() {
	aside, err := state.SetAside(d.base, d.Name)
	if err != nil || len(aside) == 0 || d.damage != nil {
		return
	}
	last := aside[len(aside)-1]
	d.damaged = last.Name
	d.damage = &Fault{Code: StateDamaged, Since: last.At, Text: fmt.Sprintf("the state database was damaged; it is kept as %s",
		filepath.Join(d.base.Dir(), d.damaged))}
}

// watchState looks after the files of the state: a database that is not where the next start will look for it is written anew, and one that was
// set aside is no news any more once somebody has removed it. An archive that somebody removed as a whole begins anew: nothing is replaced
// without one.
func (d *Directory) watchState() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.store.InPlace() {
		if err := makePlaces(d.base, d.Name); err != nil {
			d.log.Warn("the place of the state database is not made anew", "error", err)
		}
		d.stirSave.wake()
	}
	if d.archive.Replaced() {
		if err := errors.Join(makePlaces(d.base, d.Name), d.archive.Reopen()); err != nil {
			d.log.Warn("the archive is not taken up again", "error", err)
		}
		d.stirWork.wake()
	}
	if d.damage == nil || d.damaged == "" && time.Since(d.damage.Since) < damageMemory {
		return
	}
	if d.damaged != "" {
		if _, err := d.base.Lstat(d.damaged); !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	d.damage, d.damaged = nil, ""
	d.stirLocked()
}

// damageMemory is for how long it is told that a state database vanished, or was an old one.
const damageMemory = time.Hour

func (d *Directory) storeFaultLocked(err error) {
	code := StateDamaged
	if state.IsFull(err) {
		code = DiskFull
	}
	if d.storeFault == nil || d.storeFault.Code != code {
		d.storeFault = &Fault{Code: code, Since: time.Now()}
		d.log.Error(err.Error(), "problem", string(code))
	}
	d.storeFault.Text = err.Error()
}
