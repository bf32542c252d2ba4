package policies

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is let through is a whole archive within its bound, whatever a server answers with.
func FuzzInspect(f *testing.F) {
	pack := func(name string, size int) []byte {
		var archive bytes.Buffer
		zipped := gzip.NewWriter(&archive)
		packed := tar.NewWriter(zipped)
		require.NoError(f, packed.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(size)}))
		_, err := packed.Write(make([]byte, size))
		require.NoError(f, err)
		require.NoError(f, packed.Close())
		require.NoError(f, zipped.Close())
		return archive.Bytes()
	}
	good := pack("a.rego", 100)
	for _, archive := range [][]byte{nil, good, good[:len(good)-9], pack("patch.json", 1), pack("policy.wasm", 1), pack("big.json", 1<<16), []byte("<html>")} {
		f.Add(archive)
	}
	const most = 1 << 14
	f.Fuzz(func(t *testing.T, archive []byte) {
		if inspect(archive, most) != nil {
			return
		}
		unzipped, err := gzip.NewReader(bytes.NewReader(archive))
		require.NoError(t, err)
		content, err := io.ReadAll(unzipped)
		require.NoError(t, err)
		assert.LessOrEqual(t, len(content), most)
	})
}
