package basic

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"runtime"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/crypto/bcrypt"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Verifier verifies passwords for all checks of a process: a few at a time, so that whoever makes passwords up leaves processors and
// places at the gate to others; and each once, for it keeps what came of it. It keeps no name and no password, but a MAC of both and of the
// user's hash, under a key of its own: what was verified with a hash that is no longer the user's is not found again.
type Verifier struct {
	key [sha256.Size]byte
	// right and wrong are apart, so that many wrong passwords do not push out the right ones.
	right, wrong *lru.Cache[mac, struct{}]
	// admitted are those that are verified or wait for it, running the first of these.
	admitted, running chan struct{}
}

// mac stands for a name, a password and the user's hash.
type mac [sha256.Size]byte

const (
	// remembered is how many right and how many wrong passwords are kept, in some 100 bytes each.
	remembered = 10_000
	// waiting is how many passwords wait for their turn.
	waiting = 32
	// share is the part of the places at the gate that passwords never take more of, waiting or not.
	share = 4
)

// NewVerifier makes a verifier that leaves half of the processors to others, and most of so many places at the gate.
func NewVerifier(places int) *Verifier {
	running := max(1, runtime.GOMAXPROCS(0)/2)
	return newVerifier(running, min(running+waiting, max(1, places/share)))
}

func newVerifier(running, admitted int) *Verifier {
	v := &Verifier{admitted: make(chan struct{}, admitted), running: make(chan struct{}, running)}
	_, _ = rand.Read(v.key[:]) // it never fails
	// The only error is a size below one.
	v.right, _ = lru.New[mac, struct{}](remembered)
	v.wrong, _ = lru.New[mac, struct{}](remembered)
	return v
}

// login is what a caller presents, with what there is to compare it with.
type login struct {
	password string
	// hash is the user's, or that of another one where there is no such user.
	hash  string
	known bool
	mac   mac
}

// lengthBytes is how many bytes tell a length.
const lengthBytes = 4

func (v *Verifier) login(users *Users, user, password string) login {
	l := login{password: password}
	l.hash, l.known = users.hashes[user]
	// Lengths keep what is the user's apart from what is the password's; and a hash is never empty.
	text := make([]byte, 0, MaxUserBytes+MaxPasswordBytes+bcryptLength+2*lengthBytes)
	text = binary.BigEndian.AppendUint32(text, uint32(len(user))) //nolint:gosec // it is bounded
	text = append(text, user...)
	text = binary.BigEndian.AppendUint32(text, uint32(len(password))) //nolint:gosec // the same
	text = append(text, password...)
	text = append(text, l.hash...)
	m := hmac.New(sha256.New, v.key[:])
	_, _ = m.Write(text)
	l.mac = mac(m.Sum(nil))
	return l
}

// recall returns what came of the same before, and false where nothing did.
func (v *Verifier) recall(l login) (right, ok bool) {
	if _, ok = v.right.Get(l.mac); ok {
		return true, true
	}
	_, ok = v.wrong.Get(l.mac)
	return false, ok
}

// verify compares the password with the hash. For a name that is no user's it takes as long as for a user of some name, so that nobody
// finds out by the time.
func (v *Verifier) verify(ctx context.Context, users *Users, user string, l login) (right bool, failure *policy.Failure) {
	if users.Len() == 0 {
		return false, nil
	}
	select {
	case v.admitted <- struct{}{}:
		defer func() { <-v.admitted }()
	default:
		return false, policy.Fail(config.Overload, "%d passwords were being verified or waited for it; wrong ones are denied, but take their time", cap(v.admitted))
	}
	select {
	case v.running <- struct{}{}:
		defer func() { <-v.running }()
	case <-ctx.Done():
		return false, policy.Fail(config.Timeout, "there was no time left to verify a password")
	}
	if right, ok := v.recall(l); ok { // another request brought the same
		return right, nil
	}
	hash := l.hash
	if !l.known {
		hash = users.decoy(v.key, user)
	}
	err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(l.password))
	if right = err == nil && l.known; right {
		v.right.Add(l.mac, struct{}{})
	} else {
		v.wrong.Add(l.mac, struct{}{})
	}
	return right, nil
}

// decoy returns the hash of some user, always the same one for a name. So where users' hashes are of several costs, names that are no
// user's seem to be as well.
func (u *Users) decoy(key [sha256.Size]byte, name string) string {
	m := hmac.New(sha256.New, key[:])
	_, _ = m.Write([]byte(name))
	n := binary.BigEndian.Uint64(m.Sum(nil)) % uint64(len(u.decoys))
	return u.decoys[n]
}
