package p

grants = [{"group": "bucket-admins", "methods": ["storage.buckets.get", "storage.buckets.list"]}]

default allow = false

allow = true {
	grant = grants[_]
	input.subject.groups[_] = grant.group
	input.action.method = grant.methods[_]
}
