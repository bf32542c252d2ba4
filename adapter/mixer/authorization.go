package mixer

import (
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// decodeAuthorization decodes an authorization.InstanceMsg.
func decodeAuthorization(message string, request *policy.Request) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			if request.Subject == nil {
				request.Subject = &policy.Subject{}
			}
			r.Fail(decodeSubject(r.Text(typ), request.Subject))
		case 2:
			if request.Action == nil {
				request.Action = &policy.Action{}
			}
			r.Fail(decodeAction(r.Text(typ), request.Action))
		case instanceNameField:
			request.Instance = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

func decodeSubject(message string, subject *policy.Subject) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			subject.User = r.Text(typ)
		case 2:
			subject.Groups = r.Text(typ)
		case 3:
			subject.Properties = subject.Properties.AppendEntry(&r, typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

func decodeAction(message string, action *policy.Action) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			action.Namespace = r.Text(typ)
		case 2:
			action.Service = r.Text(typ)
		case 3:
			action.Method = r.Text(typ)
		case 4:
			action.Path = r.Text(typ)
		case 5:
			action.Properties = action.Properties.AppendEntry(&r, typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}
