// Package template holds the descriptors of Mixer's templates. The folders below hold one template each: its .proto, its
// generated Go code and its descriptor set.
package template

import (
	"embed"
	"fmt"
	"io/fs"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

//go:embed */*.binpb
var sets embed.FS

// Files returns the descriptors of all templates and their imports, for gRPC reflection: the generated code is registered with
// gogo/protobuf alone, which reflection does not ask.
func Files() (*protoregistry.Files, error) {
	names, err := fs.Glob(sets, "*/*.binpb")
	if err != nil {
		return nil, err
	}
	all := &descriptorpb.FileDescriptorSet{}
	known := map[string]bool{}
	for _, name := range names {
		encoded, err := sets.ReadFile(name)
		if err != nil {
			return nil, err
		}
		set := &descriptorpb.FileDescriptorSet{}
		if err := proto.Unmarshal(encoded, set); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, file := range set.GetFile() {
			if !known[file.GetName()] {
				known[file.GetName()] = true
				all.File = append(all.File, file)
			}
		}
	}
	return protodesc.NewFiles(all)
}
