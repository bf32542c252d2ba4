package basic

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// Bounds of an htpasswd file.
const (
	MaxFileBytes = 1 << 20
	MaxUsers     = 10_000
	// MinCost is what `htpasswd -B` takes by itself; MaxCost takes about a second.
	MinCost = 5
	MaxCost = 14
)

// Users are one revision of an htpasswd file. They are immutable.
type Users struct {
	hashes map[string]string
	// decoys are all hashes, for those who are no users.
	decoys []string
}

// ParseUsers reads an htpasswd file: in each line a name, a colon and a bcrypt hash. Empty lines are left out, and those that begin with '#'.
// One line that is none of these spoils the file. A file without users is valid: nobody passes. Errors name lines and show nothing of them.
func ParseUsers(document []byte) (*Users, error) {
	users := &Users{hashes: map[string]string{}}
	lines := map[string]int{}
	number := 0
	for line := range strings.Lines(string(document)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		if strings.HasPrefix(line, "\ufeff") { // else the user would be unknown, and nobody would see why
			return nil, fmt.Errorf("line %d begins with a byte order mark; save the file without one", number)
		}
		name, hash, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf(`line %d has no colon; write "name:hash" as htpasswd does`, number)
		}
		if problem := checkUser(name); problem != "" {
			return nil, fmt.Errorf("line %d %s; use 1 to %d bytes of UTF-8", number, problem, MaxUserBytes)
		}
		if problem := checkHash(hash); problem != "" {
			return nil, fmt.Errorf(`line %d %s; make a hash with "htpasswd -nB -C 10 NAME"`, number, problem)
		}
		if before, twice := lines[name]; twice {
			return nil, fmt.Errorf("line %d has the user of line %d again; keep one", number, before)
		}
		if len(lines) == MaxUsers {
			return nil, fmt.Errorf("it has more than %d users", MaxUsers)
		}
		lines[name] = number
		users.hashes[name] = hash
		users.decoys = append(users.decoys, hash)
	}
	slices.Sort(users.decoys)
	return users, nil
}

// Len returns how many users there are.
func (u *Users) Len() int { return len(u.hashes) }

// bcryptLength is that of a bcrypt hash in its text form.
const bcryptLength = 60

// checkHash says what is wrong with a hash; nothing for a bcrypt hash of a cost that may be.
func checkHash(hash string) (problem string) {
	kind := map[string]string{
		"$apr1$": "an MD5 hash ($apr1$)", "$1$": "an MD5 hash ($1$)", "{SHA}": "a SHA-1 hash ({SHA})", "{SSHA}": "a SHA-1 hash ({SSHA})",
		"$5$": "a hash of crypt's SHA-256 ($5$)", "$6$": "a hash of crypt's SHA-512 ($6$)", "$argon2": "an Argon2 hash",
		"$2x$": "a hash of a bcrypt with a known fault ($2x$)",
	}
	for prefix, what := range kind {
		if strings.HasPrefix(hash, prefix) {
			return "has " + what + ", and only bcrypt is taken"
		}
	}
	isBcrypt := strings.HasPrefix(hash, "$2a$") || strings.HasPrefix(hash, "$2b$") || strings.HasPrefix(hash, "$2y$")
	if !isBcrypt {
		return "has no bcrypt hash: a password in plain text, a hash of crypt, or something else"
	}
	cost, err := bcrypt.Cost([]byte(hash))
	switch {
	case err != nil || len(hash) != bcryptLength || strings.Trim(hash[7:], "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != "":
		return "has a bcrypt hash that is cut off or followed by something"
	case cost < MinCost:
		return fmt.Sprintf("has a bcrypt hash of cost %d, which is guessed too quickly; use %d to %d", cost, MinCost, MaxCost)
	case cost > MaxCost:
		return fmt.Sprintf("has a bcrypt hash of cost %d, which takes too long; use %d to %d", cost, MinCost, MaxCost)
	}
	return ""
}
