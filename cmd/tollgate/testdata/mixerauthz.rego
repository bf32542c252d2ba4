package mixerauthz

default allow = false

allow {
  input.subject.groups[_] == "bucket-admins"
}
