// Module proto compiles Tollgate's .proto files. It is a module of its own so
// that the compiler and the plugins never reach the product's go.mod.
module github.com/tollgate-mesh/tollgate/tools/proto

go 1.26.0

tool (
	github.com/gogo/protobuf/protoc-gen-gogofaster
	google.golang.org/protobuf/cmd/protoc-gen-go
)

require (
	github.com/bufbuild/protocompile v0.14.1
	github.com/stretchr/testify v1.12.1
	go.yaml.in/yaml/v3 v3.0.6
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/gogo/protobuf v1.3.2 // indirect
	golang.org/x/sync v0.8.0 // indirect
)
