// Command protogen turns Tollgate's .proto files into Go code, descriptor sets
// and the bundle of resources that operators apply. It needs no protoc: it
// compiles the files itself and runs the plugins that its module pins.
//
//	go -C tools/proto run ./protogen
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
)

// sources lists every .proto file. A further Mixer template is one line here
// and one file; it then appears in the bundle and in the adapter's templates.
var sources = []source{
	{path: "template/authorization/authorization.proto", kind: mixerTemplate},
	{path: "template/apikey/apikey.proto", kind: mixerTemplate},
	{path: "template/listentry/listentry.proto", kind: mixerTemplate},
	{path: "template/checknothing/checknothing.proto", kind: mixerTemplate},
	{path: "template/quota/quota.proto", kind: mixerTemplate},
	{path: "template/logentry/logentry.proto", kind: mixerTemplate},
	{path: "template/metric/metric.proto", kind: mixerTemplate},
	{path: "template/tracespan/tracespan.proto", kind: mixerTemplate},
	{path: "template/edge/edge.proto", kind: mixerTemplate},
	{path: "template/reportnothing/reportnothing.proto", kind: mixerTemplate},
	{path: "config/config.proto", kind: handlerConfig},
}

// bundlePath is where the operators' resources go.
const bundlePath = "operatorconfig/tollgate.yaml"

// A source is one .proto file, named by its path below the repository's root.
type source struct {
	path string
	kind *kind
}

func main() {
	root := flag.String("root", "../..", "the repository's root")
	flag.Parse()
	if err := run(context.Background(), *root); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

// run generates everything below root. It writes only when all files compiled,
// so that a mistake in one never leaves the others half updated.
func run(ctx context.Context, root string) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	product := goModule{dir: root}
	tools := goModule{dir: filepath.Join(root, "tools", "proto")}
	if err := sameVersions(ctx, product, tools); err != nil {
		return err
	}
	api, err := product.dirOf(ctx, apiModule)
	if err != nil {
		return err
	}

	outputs := map[string][]byte{}
	var b bundle
	for _, src := range sources {
		compiled, err := compile(ctx, root, api, src)
		if err != nil {
			return fmt.Errorf("%s: %w", src.path, err)
		}
		set, err := compiled.descriptorSet()
		if err != nil {
			return fmt.Errorf("%s: %w", src.path, err)
		}
		// Reflection serves the templates' descriptors; the configuration's is in
		// its own generated code.
		if src.kind == mixerTemplate {
			outputs[src.descriptorPath()] = set
		}
		if err := b.add(compiled, set); err != nil {
			return fmt.Errorf("%s: %w", src.path, err)
		}
		code, err := compiled.generate(ctx, tools)
		if err != nil {
			return fmt.Errorf("%s: %w", src.path, err)
		}
		maps.Copy(outputs, code)
	}
	if outputs[bundlePath], err = b.render(); err != nil {
		return fmt.Errorf("%s: %w", bundlePath, err)
	}

	for path, content := range outputs {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
