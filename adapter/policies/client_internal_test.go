package policies

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sparse is an archive of files that are nothing but a hole, as GNU's tar writes them in the format PAX 1.0. Go's writer knows none.
func sparse(tb testing.TB, files, size int) []byte {
	tb.Helper()
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	for i := range files {
		var records strings.Builder
		for _, record := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", fmt.Sprintf("GNU.sparse.name=%d.json", i), fmt.Sprintf("GNU.sparse.realsize=%d", size)} {
			fmt.Fprintf(&records, "%02d %s\n", len(record)+len("00 \n"), record)
		}
		holes := make([]byte, 512)
		copy(holes, fmt.Sprintf("1\n%d\n0\n", size)) // no bytes, at the end
		var raw bytes.Buffer
		packed := tar.NewWriter(&raw)
		for _, content := range []string{records.String(), string(holes)} {
			require.NoError(tb, packed.WriteHeader(&tar.Header{Name: "x", Mode: 0o600, Size: int64(len(content)), Format: tar.FormatUSTAR}))
			_, err := packed.Write([]byte(content))
			require.NoError(tb, err)
		}
		require.NoError(tb, packed.Flush())
		// The first of the two is the header of the second.
		const typeflag, checksum = 156, 148
		block := raw.Bytes()
		block[typeflag] = tar.TypeXHeader
		copy(block[checksum:], "        ")
		sum := 0
		for _, b := range block[:512] {
			sum += int(b)
		}
		copy(block[checksum:], fmt.Sprintf("%06o\x00 ", sum))
		_, err := zipped.Write(block)
		require.NoError(tb, err)
	}
	_, err := zipped.Write(make([]byte, 1024))
	require.NoError(tb, err)
	require.NoError(tb, zipped.Close())
	return archive.Bytes()
}

// A hole takes no bytes of an archive, and all of its size when OPA reads it.
func TestHolesCount(t *testing.T) {
	t.Parallel()
	archive := sparse(t, 10, 1<<14)
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	require.NoError(t, err)
	packed := tar.NewReader(unzipped)
	header, err := packed.Next()
	require.NoError(t, err)
	content, err := io.ReadAll(packed)
	require.NoError(t, err)
	require.Equal(t, "0.json", header.Name)
	require.Len(t, content, 1<<14, "it is read as what it stands for")

	require.NoError(t, inspect(archive, 10<<14))
	require.EqualError(t, inspect(archive, 10<<14-1), "the bundle has more than 163839 bytes when it is unpacked; max_bytes bounds it")
	require.Error(t, inspect(sparse(t, 2, math.MaxInt64), 1<<30))
}

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
	f.Add(sparse(f, 2, most))
	f.Fuzz(func(t *testing.T, archive []byte) {
		if inspect(archive, most) != nil {
			return
		}
		unzipped, err := gzip.NewReader(bytes.NewReader(archive))
		require.NoError(t, err)
		content, err := io.ReadAll(unzipped)
		require.NoError(t, err)
		assert.LessOrEqual(t, len(content), most)
		var held int64
		for packed := tar.NewReader(bytes.NewReader(content)); ; {
			if _, err := packed.Next(); err != nil {
				require.ErrorIs(t, err, io.EOF)
				break
			}
			n, err := io.Copy(io.Discard, packed)
			require.NoError(t, err)
			held += n
		}
		assert.LessOrEqual(t, held, int64(most))
	})
}
