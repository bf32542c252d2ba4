package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// apiModule carries Mixer's own .proto files, and under common-protos the
// ones that they import. The product's version of it counts.
const apiModule = "istio.io/api"

// sharedModules are required by the product and by this module. Generated code
// calls into their run-time packages, so that both must name one version.
var sharedModules = []string{"github.com/gogo/protobuf", "google.golang.org/protobuf"}

// A goModule is a directory with a go.mod, in which go commands run.
type goModule struct{ dir string }

// command runs a go command with input on stdin and returns its stdout.
func (m goModule) command(ctx context.Context, input []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = m.dir
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// versionOf returns the version of a module that m selects.
func (m goModule) versionOf(ctx context.Context, path string) (string, error) {
	out, err := m.command(ctx, nil, "list", "-m", "-f", "{{.Version}}", path)
	return strings.TrimSpace(string(out)), err
}

// dirOf returns where a module's files are, and downloads them where they are
// missing.
func (m goModule) dirOf(ctx context.Context, path string) (string, error) {
	out, err := m.command(ctx, nil, "mod", "download", "-json", path)
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", fmt.Errorf("go mod download %s: %w", path, err)
	}
	return module.Dir, nil
}

// sameVersions refuses to generate code for other versions than the product
// links.
func sameVersions(ctx context.Context, product, tools goModule) error {
	for _, path := range sharedModules {
		want, err := product.versionOf(ctx, path)
		if err != nil {
			return err
		}
		got, err := tools.versionOf(ctx, path)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s is %s in go.mod but %s in tools/proto/go.mod: run \"go -C tools/proto get %s@%s\"",
				path, want, got, path, want)
		}
	}
	return nil
}
