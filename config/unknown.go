package config

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// unknown adds a problem for every field and enum number, at any depth, that this version does not know. An older replica
// that skipped a new check would let through what the operator meant to stop.
func unknown(problems *Problems, prefix string, message protoreflect.Message) {
	reported := map[protowire.Number]bool{}
	for rest := message.GetUnknown(); len(rest) > 0; {
		number, _, size := protowire.ConsumeField(rest)
		if size < 0 {
			problems.add(prefix+"(unknown)", "cannot be read; check that the adapter resource is the one that belongs to this version")
			break
		}
		rest = rest[size:]
		field := message.Descriptor().Fields().ByNumber(number)
		if reported[number] || field == nil && len(reported) > maxProblems {
			continue
		}
		reported[number] = true
		if field != nil {
			// The library keeps a known field here too, if it comes in another wire type.
			problems.add(prefix+string(field.Name()), "is encoded as another type than this version reads; check that the adapter resource is the one that belongs to this version")
			continue
		}
		problems.add(fmt.Sprintf("%s(field %d)", prefix, number), "is not known to this version of tollgate; upgrade every replica before the params that use it")
	}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		path := prefix + string(field.Name())
		switch {
		case field.IsMap():
			// Every map here has string values.
		case field.IsList():
			for i := range value.List().Len() {
				unknownValue(problems, fmt.Sprintf("%s[%d]", path, i), field, value.List().Get(i))
			}
		default:
			unknownValue(problems, path, field, value)
		}
		return true
	})
}

func unknownValue(problems *Problems, path string, field protoreflect.FieldDescriptor, value protoreflect.Value) {
	switch {
	case field.Message() != nil:
		unknown(problems, path+".", value.Message())
	case field.Enum() != nil:
		if field.Enum().Values().ByNumber(value.Enum()) == nil {
			problems.add(path, "has the value %d, which is not known to this version of tollgate; upgrade every replica before the params that use it", value.Enum())
		}
	}
}
