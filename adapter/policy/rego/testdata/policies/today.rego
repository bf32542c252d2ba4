package p

import data.p.lists

default allow := false

roles[user] contains role if {
	some entry in [{"user": "alice", "role": "admin"}, {"user": "bob", "role": "reader"}]
	user := entry.user
	role := entry.role
}

allow if {
	"admin" in roles[input.subject.user]
	every part in split(trim(input.action.path, "/"), "/") {
		regex.match(`^[a-z]+$`, part)
	}
	not net.cidr_contains("10.0.0.0/8", input.subject.properties.ip)
} else := {"allow": true, "reason": $"{input.subject.user} may read"} if {
	"reader" in roles[input.subject.user]
	object.get(input, ["action", "method"], "") in {"GET", "HEAD"}
}
