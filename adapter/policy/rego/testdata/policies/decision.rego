package p

default allow = {"allow": false, "code": "UNAUTHENTICATED", "message": "log in", "headers": {"WWW-Authenticate": "Bearer"}}

allow = {"allow": true, "reason": reason, "lifetime": {"duration": "30s", "uses": 10}} {
	parts := split(input.subject.properties.token, ".")
	count(parts) == 3
	claims := json.unmarshal(base64url.decode(parts[1]))
	claims.exp * 1000000000 > time.now_ns()
	reason := sprintf("token of %v", [claims.sub])
}

allow = {"allow": false, "http_status": 429, "lifetime": "single_use"} {
	rand.intn("shed", 100) > 100
}
