// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"debug/elf"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	composetypes "github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/manifold-grpc/manifold/internal/exampletest"
	"github.com/manifold-grpc/manifold/internal/sample"
)

// stages returns the stages of the Dockerfile.
func stages(t *testing.T) []instructions.Stage {
	t.Helper()

	parsed, err := parser.Parse(strings.NewReader(exampletest.Read(t, "docker/Dockerfile")))
	if err != nil {
		t.Fatal(err)
	}
	if len(parsed.Warnings) > 0 {
		t.Errorf("warnings: %v", parsed.Warnings)
	}
	found, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}

	return found
}

// commands returns those of one kind in a stage.
func commands[T instructions.Command](stage instructions.Stage) []T {
	var found []T
	for _, c := range stage.Commands {
		if c, ok := c.(T); ok {
			found = append(found, c)
		}
	}

	return found
}

func TestDockerfile(t *testing.T) {
	all := stages(t)
	build, image := all[0], all[len(all)-1]
	goMod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if version := strings.TrimPrefix(build.BaseName, "golang:"); !strings.Contains(string(goMod), "\ngo "+version+".") {
		t.Errorf("built on %s, which is not the version of go.mod", build.BaseName)
	}
	if !strings.HasPrefix(image.BaseName, "gcr.io/distroless/static-") {
		t.Errorf("the image is based on %s", image.BaseName)
	}
	if user := commands[*instructions.UserCommand](image); len(user) != 1 || user[0].User != "65532:65532" {
		t.Errorf("user %v, want one by number, which is what runAsNonRoot can check", user)
	}
	copied := commands[*instructions.CopyCommand](image)
	if len(copied) != 1 || copied[0].From != build.Name {
		t.Fatalf("the image has %v, want the program alone", copied)
	}
	if entry := commands[*instructions.EntrypointCommand](image); len(entry) != 1 || !slices.Equal(entry[0].CmdLine, []string{copied[0].DestPath}) {
		t.Errorf("the image runs %v, want %s", entry, copied[0].DestPath)
	}
	program := builtProgram(t, build, copied[0].SourcePaths[0])
	if out, err := exec.CommandContext(t.Context(), program, "version").CombinedOutput(); err != nil {
		t.Errorf("version: %v\n%s", err, out)
	}
	binary, err := elf.Open(program)
	if err != nil {
		t.Skipf("no ELF: %v", err)
	}
	defer binary.Close() //nolint:errcheck // it was read only
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program needs a dynamic linker, which the image does not have")
		}
	}
}

// builtProgram runs the command of the Dockerfile that builds the program, outside of a container.
func builtProgram(t *testing.T, build instructions.Stage, to string) string {
	t.Helper()

	runs := commands[*instructions.RunCommand](build)
	line := strings.Join(runs[len(runs)-1].CmdLine, " ")
	if !strings.Contains(line, "go build ") || !strings.Contains(line, " -o "+to+" ") {
		t.Fatalf("the last command is %q, want one that builds %s", line, to)
	}
	program := filepath.Join(t.TempDir(), "manifold")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(line, " -o "+to+" ", " -o "+program+" ", 1))
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOFLAGS=") // -race would want cgo
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}

	return program
}

// Every file that the build needs gets into the image's context.
func TestDockerIgnore(t *testing.T) {
	patterns, err := ignorefile.ReadAll(strings.NewReader(exampletest.Read(t, "docker/Dockerfile.dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f",
		`{{if not .Standard}}{{if .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{end}}{{end}}`, "./cmd/manifold")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	needed := append(strings.Fields(string(out)), filepath.Join(root, "go.mod"), filepath.Join(root, "go.sum"))
	if len(needed) < 50 {
		t.Fatalf("the build needs %d files, which cannot be all", len(needed))
	}
	for _, name := range needed {
		ignored, err := matcher.MatchesOrParentMatches(strings.TrimPrefix(name, root+"/"))
		if err != nil || ignored {
			t.Errorf("%s is ignored, %v", name, err)
		}
	}
	for _, name := range []string{".git/config", "bench/go.mod", "examples/tls/server.key"} {
		if ignored, err := matcher.MatchesOrParentMatches(name); err != nil || !ignored {
			t.Errorf("%s is not ignored, %v", name, err)
		}
	}
}

// compose loads a compose file's text, strictly: by its schema, without normalising.
func compose(t *testing.T, text string) (*composetypes.Project, error) {
	t.Helper()

	return loader.LoadWithContext(t.Context(), composetypes.ConfigDetails{
		WorkingDir:  exampletest.Path(t, "docker"),
		ConfigFiles: []composetypes.ConfigFile{{Filename: "compose.yaml", Content: []byte(text)}},
	}, func(o *loader.Options) { o.SkipResolveEnvironment = true })
}

// TestCompose checks the compose file, and runs the file of the proxy in it with backends of the test's.
func TestCompose(t *testing.T) {
	text := exampletest.Read(t, "docker/compose.yaml")
	project, err := compose(t, text)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range project.Services {
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("service %s: read_only %v, cap_drop %v", name, s.ReadOnly, s.CapDrop)
		}
	}
	proxy := project.Services["manifold"]
	for _, p := range proxy.Ports {
		if p.HostIP != "127.0.0.1" {
			t.Errorf("port %d is published on %q", p.Target, p.HostIP)
		}
	}
	if proxy.Build == nil || filepath.Join(proxy.Build.Context, proxy.Build.Dockerfile) != exampletest.Path(t, "docker/Dockerfile") {
		t.Errorf("build = %+v, want the Dockerfile", proxy.Build)
	}
	volume, image := proxy.Volumes[0], stages(t)[1]
	command := commands[*instructions.CmdCommand](image)[0].CmdLine
	if path.Dir(command[len(command)-1]) != volume.Target || volume.Source != exampletest.Path(t, "docker/config") || !volume.ReadOnly {
		t.Errorf("volume %+v, want config where %q reads its file", volume, command)
	}

	oldnew := []string{`":9901"`, "127.0.0.1:0", `":8080"`, "127.0.0.1:0"}
	for _, name := range []string{"one", "two"} {
		listen := project.Services[name].Command
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		backend := sample.Start(lis, sample.Options{Name: name})
		defer backend.Stop()
		oldnew = append(oldnew, name+listen[2], lis.Addr().String())
	}
	run(t, load(t, exampletest.Read(t, "docker/config/manifold.yaml", oldnew...)))
}

// The schema does see mistakes.
func TestComposeStrict(t *testing.T) {
	for text, want := range map[string]string{
		"name: x\nservices: {a: {image: b, comand: [c]}}\n":        "comand",
		"name: x\nservices: {a: {image: b, read_only: [1]}}\n":     "read_only",
		"name: x\nservices: {a: {image: b, depends_on: [none]}}\n": "none",
	} {
		if _, err := compose(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s in it", text, err, want)
		}
	}
}
