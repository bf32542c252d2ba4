package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

const (
	// productModule prefixes every go_package, and is stripped from the paths
	// that plugins write to.
	productModule = "github.com/tollgate-mesh/tollgate"
	// ownPrefix goes before our files' names in descriptors. Protobuf registers
	// files by name in one table per process, where a bare config/config.proto
	// could meet another library's.
	ownPrefix = "tollgate/"
)

// A kind is what a .proto file is for, which decides how it is compiled.
type kind struct {
	// plugin is the tool of this module that writes the Go code.
	plugin string
	// params are the plugin's.
	params []string
	// standardImports takes google/protobuf/* from the protobuf library rather
	// than from Mixer's API, whose copies name other Go packages.
	standardImports bool
}

var (
	// mixerTemplate code shares its message types with istio.io/api, which is
	// gogo code; so it is gogo code too. The imports that do not name their
	// gogo package are mapped to the one that istio.io/api uses.
	mixerTemplate = &kind{
		plugin: "protoc-gen-gogofaster",
		params: []string{
			"plugins=grpc",
			"Mgogoproto/gogo.proto=github.com/gogo/protobuf/gogoproto",
			"Mgoogle/protobuf/any.proto=github.com/gogo/protobuf/types",
			"Mgoogle/protobuf/descriptor.proto=github.com/gogo/protobuf/protoc-gen-gogo/descriptor",
			"Mgoogle/protobuf/duration.proto=github.com/gogo/protobuf/types",
			"Mgoogle/protobuf/timestamp.proto=github.com/gogo/protobuf/types",
			"Mgoogle/rpc/status.proto=istio.io/gogo-genproto/googleapis/google/rpc",
		},
	}
	// handlerConfig code needs presence, unknown fields and reflection, all of
	// which gogo lacks and the configuration's checks stand on.
	handlerConfig = &kind{plugin: "protoc-gen-go", standardImports: true}
)

// descriptorPath is where a source's descriptor set goes.
func (s source) descriptorPath() string {
	return strings.TrimSuffix(s.path, ".proto") + ".binpb"
}

// A compiled source is a linked file together with everything that it imports.
type compiled struct {
	source
	// files holds the imports before the files that import them; the source's
	// own file is the last.
	files []*descriptorpb.FileDescriptorProto
	// options are the source's file options, with extensions resolved.
	options *descriptorpb.FileOptions
}

// compile links a source. Imports are looked up in this repository, in the
// directory of istio.io/api and among the copies that it keeps of others'
// files.
func compile(ctx context.Context, root, api string, src source) (*compiled, error) {
	shared := &protocompile.SourceResolver{ImportPaths: []string{api, filepath.Join(api, "common-protos")}}
	own := &protocompile.SourceResolver{ImportPaths: []string{root}}
	standard := protocompile.WithStandardImports(protocompile.CompositeResolver{})
	resolve := func(name string) (protocompile.SearchResult, error) {
		if path, ok := strings.CutPrefix(name, ownPrefix); ok {
			return own.FindFileByPath(path)
		}
		if src.kind.standardImports {
			if found, err := standard.FindFileByPath(name); err == nil {
				return found, nil
			}
		}
		return shared.FindFileByPath(name)
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.ResolverFunc(resolve),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	linked, err := compiler.Compile(ctx, ownPrefix+src.path)
	if err != nil {
		return nil, err
	}
	c := &compiled{source: src, options: &descriptorpb.FileOptions{}}
	c.collect(linked[0], map[string]bool{})
	raw, err := proto.Marshal(linked[0].Options())
	if err != nil {
		return nil, err
	}
	resolver := linker.ResolverFromFile(linked[0])
	if err := (proto.UnmarshalOptions{Resolver: resolver}).Unmarshal(raw, c.options); err != nil {
		return nil, err
	}
	return c, nil
}

// collect appends a file after all that it imports, each file once.
func (c *compiled) collect(file protoreflect.FileDescriptor, seen map[string]bool) {
	if seen[file.Path()] {
		return
	}
	seen[file.Path()] = true
	for i := range file.Imports().Len() {
		c.collect(file.Imports().Get(i).FileDescriptor, seen)
	}
	c.files = append(c.files, protoutil.ProtoFromFileDescriptor(file))
}

// name is the source's name in descriptors.
func (c *compiled) name() string { return ownPrefix + c.path }

// descriptorSet encodes the file and its imports. Comments and positions are
// left out: nothing that reads the set wants them, and operators' resources
// carry it.
func (c *compiled) descriptorSet() ([]byte, error) {
	set := &descriptorpb.FileDescriptorSet{}
	for _, file := range c.files {
		file = proto.CloneOf(file)
		file.SourceCodeInfo = nil
		set.File = append(set.File, file)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(set)
}

// extension returns the value of a string extension of the file's options.
func (c *compiled) extension(name protoreflect.FullName) (string, error) {
	var value string
	c.options.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if field.FullName() == name {
			value = v.String()
		}
		return value == ""
	})
	if value == "" {
		return "", fmt.Errorf("the file option (%s) is missing: Mixer rejects a template without it", name)
	}
	return value, nil
}

// generate runs the plugin and returns the Go files by their path below the
// repository's root.
func (c *compiled) generate(ctx context.Context, tools goModule) (map[string][]byte, error) {
	request, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{c.name()},
		Parameter:      proto.String(strings.Join(c.kind.params, ",")),
		ProtoFile:      c.files,
	})
	if err != nil {
		return nil, err
	}
	out, err := tools.command(ctx, request, "tool", c.kind.plugin)
	if err != nil {
		return nil, err
	}
	response := &pluginpb.CodeGeneratorResponse{}
	if err := proto.Unmarshal(out, response); err != nil {
		return nil, fmt.Errorf("%s: %w", c.kind.plugin, err)
	}
	if response.Error != nil {
		return nil, fmt.Errorf("%s: %s", c.kind.plugin, response.GetError())
	}
	code := map[string][]byte{}
	for _, file := range response.GetFile() {
		path, ok := strings.CutPrefix(file.GetName(), productModule+"/")
		if !ok {
			return nil, fmt.Errorf("go_package %q is outside %s: correct the option in the file",
				c.options.GetGoPackage(), productModule)
		}
		code[path] = []byte(file.GetContent())
	}
	return code, nil
}
