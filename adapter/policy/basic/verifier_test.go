package basic

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/config"
)

// How long what ought to happen at once may take.
const (
	patience = 2 * time.Minute
	tick     = time.Millisecond
)

const hash = "$2y$05$abcdefghijklmnopqrstuukqWvEbofmMriqkf/BobvTmwuU8kStc." // wombat-4711

func usersOf(t *testing.T, document string) *Users {
	t.Helper()
	users, err := ParseUsers([]byte(document))
	require.NoError(t, err)
	return users
}

// While as many passwords are verified as may be, others wait, and then there is no room to wait either.
func TestOverload(t *testing.T) {
	t.Parallel()
	users := usersOf(t, "alice:"+hash)
	v := newVerifier(1, 2)
	v.running <- struct{}{} // one that takes long
	v.admitted <- struct{}{}
	login := v.login(users, "alice", "wombat-4711")

	waiting := make(chan bool)
	go func() {
		right, failure := v.verify(context.Background(), users, "alice", login)
		assert.Nil(t, failure)
		waiting <- right
	}()
	require.Eventually(t, func() bool { return len(v.admitted) == 2 }, patience, tick)
	_, failure := v.verify(t.Context(), users, "alice", login)
	require.NotNil(t, failure)
	assert.Equal(t, config.Overload, failure.Class)

	<-v.running
	<-v.admitted
	assert.True(t, <-waiting)
	right, ok := v.recall(login)
	assert.True(t, right && ok)

	v.running <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, failure = v.verify(ctx, users, "alice", login)
	require.NotNil(t, failure)
	assert.Equal(t, config.Timeout, failure.Class)
	assert.Empty(t, v.admitted)
}

// Passwords never take more than their share of the places at the gate, however few there are.
func TestShareOfTheGate(t *testing.T) {
	t.Parallel()
	for places, want := range map[int]int{1: 1, 4: 1, 40: 10} {
		assert.Equal(t, want, cap(NewVerifier(places).admitted))
	}
	assert.LessOrEqual(t, cap(NewVerifier(1<<20).admitted), 1<<10)
}

// Wrong passwords are remembered, so many and no more, and push no right one out.
func TestManyWrongPasswords(t *testing.T) {
	t.Parallel()
	users := usersOf(t, "alice:"+hash)
	v := newVerifier(1, 1)
	right := v.login(users, "alice", "wombat-4711")
	_, failure := v.verify(t.Context(), users, "alice", right)
	require.Nil(t, failure)
	for i := range remembered + 10 {
		v.wrong.Add(v.login(users, "alice", strconv.Itoa(i)).mac, struct{}{})
	}
	assert.Equal(t, remembered, v.wrong.Len())
	ok, known := v.recall(right)
	assert.True(t, ok && known)
}

// Nothing of what stands for a login is the same where a part of it is another.
func TestMACs(t *testing.T) {
	t.Parallel()
	v := newVerifier(1, 1)
	one, other := usersOf(t, "alice:"+hash+"\nal:"+hash), usersOf(t, "alice:"+strings.Replace(hash, "$05$", "$06$", 1))
	seen := map[mac]string{}
	for name, l := range map[string]login{
		"alice":              v.login(one, "alice", "x"),
		"another password":   v.login(one, "alice", "y"),
		"another hash":       v.login(other, "alice", "x"),
		"no user":            v.login(usersOf(t, ""), "alice", "x"),
		"another border":     v.login(one, "al", "icex"),
		"another's key":      newVerifier(1, 1).login(one, "alice", "x"),
		"the hash at an end": v.login(usersOf(t, ""), "alice", "x"+hash),
	} {
		assert.Empty(t, seen[l.mac], name)
		seen[l.mac] = name
	}
	assert.Equal(t, v.login(one, "alice", "x").mac, v.login(usersOf(t, "alice:"+hash), "alice", "x").mac)
}

// A name that is no user's is compared with a user's hash, the same each time, and never passes by it.
func TestDecoys(t *testing.T) {
	t.Parallel()
	users := usersOf(t, "a:"+hash+"\nb:"+strings.Replace(hash, "$05$", "$06$", 1))
	v := newVerifier(1, 1)
	costs := map[string]int{}
	for i := range 100 {
		name := strconv.Itoa(i)
		decoy := users.decoy(v.key, name)
		costs[decoy[4:6]]++
		assert.Equal(t, decoy, users.decoy(v.key, name))
	}
	assert.Len(t, costs, 2)
	for i := range 10 {
		name := strconv.Itoa(i)
		right, failure := v.verify(t.Context(), users, name, v.login(users, name, "wombat-4711"))
		assert.Nil(t, failure)
		assert.False(t, right)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	users := usersOf(t, "alice:"+hash)
	v := newVerifier(2, 64)
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			password := [...]string{"wombat-4711", "wrong"}[i%2]
			right, failure := v.verify(t.Context(), users, "alice", v.login(users, "alice", password))
			assert.Nil(t, failure)
			assert.Equal(t, i%2 == 0, right)
		})
	}
	all.Wait()
	assert.Equal(t, 1, v.right.Len())
	assert.Equal(t, 1, v.wrong.Len())
}
