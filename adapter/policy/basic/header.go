package basic

import (
	"encoding/base64"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what a caller presents.
const (
	// MaxCredentialBytes is the longest value of the header that is looked at.
	MaxCredentialBytes = 1024
	// MaxUserBytes is the longest name of a user.
	MaxUserBytes = 128
	// MaxPasswordBytes is the longest password. Bcrypt does not look at more, and would take two for one that begin alike.
	MaxPasswordBytes = 72
)

// encoding is strict, so that a name and a password have one form only.
var encoding = base64.StdEncoding.Strict()

// parse reads the value of an authorization header (RFC 7617), or says why it has no name and password: ReasonAbsent where it is empty
// or of another scheme, else ReasonMalformed.
func parse(value string) (user, password, reason string) {
	scheme, rest, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", ReasonAbsent
	}
	rest = strings.TrimLeft(rest, " ")
	// The decoder would pass over line breaks.
	if len(value) > MaxCredentialBytes || strings.ContainsAny(rest, "\r\n") {
		return "", "", ReasonMalformed
	}
	decoded, err := encoding.DecodeString(rest)
	if err != nil {
		return "", "", ReasonMalformed
	}
	user, password, _ = strings.Cut(string(decoded), ":")
	if checkUser(user) != "" || password == "" || len(password) > MaxPasswordBytes || !isText(password) {
		return "", "", ReasonMalformed
	}
	return user, password, ""
}

// checkUser says what is wrong with a user's name; nothing for one that may be.
func checkUser(name string) (problem string) {
	switch {
	case name == "":
		return "has no name before the colon"
	case len(name) > MaxUserBytes:
		return "has a name that is too long"
	case !isText(name):
		return "has a name that is no UTF-8 text, or has control characters"
	}
	return ""
}

func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) }
