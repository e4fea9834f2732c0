// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/daemon"
	"github.com/manifold-grpc/manifold/internal/exampletest"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// decoder decodes manifests into the types of Kubernetes' API. Unknown and duplicate fields are errors.
func decoder(t *testing.T) runtime.Decoder {
	t.Helper()

	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}

	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// decode returns the objects of a file with one or more manifests.
func decode(t *testing.T, text []byte) ([]runtime.Object, error) {
	t.Helper()

	var objects []runtime.Object
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		object, _, err := decoder(t).Decode(document, nil, nil)
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
}

// manifests returns all objects of type T in examples/kubernetes.
func manifests[T runtime.Object](t *testing.T) []T {
	t.Helper()

	files, err := filepath.Glob(exampletest.Path(t, "kubernetes/*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	var found []T
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := decode(t, text)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(name), err)
		}
		for _, object := range objects {
			if o, ok := object.(T); ok {
				found = append(found, o)
			}
		}
	}

	return found
}

// named returns the one of type T with a name.
func named[T interface {
	runtime.Object
	metav1.Object
}](t *testing.T, name string) T {
	t.Helper()

	for _, o := range manifests[T](t) {
		if o.GetName() == name {
			return o
		}
	}
	var none T
	t.Fatalf("no %T %q", none, name)

	return none
}

func TestManifests(t *testing.T) {
	if n := len(manifests[runtime.Object](t)); n != 7 {
		t.Errorf("%d manifests, want 7", n)
	}
}

// The decoder does see mistakes.
func TestStrict(t *testing.T) {
	for text, want := range map[string]string{
		"apiVersion: v1\nkind: Service\nmetadata: {nam: x}\n":                    `unknown field "metadata.nam"`,
		"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {}\nspec: {}": `"spec" already set`,
		"apiVersion: v1\nkind: Servise\n":                                        `no kind "Servise"`,
		"apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: two}\n":         "replicas",
	} {
		if _, err := decode(t, []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// selects reports whether a selector fits the pods of a Deployment.
func selects(t *testing.T, selector *metav1.LabelSelector, d *appsv1.Deployment) bool {
	t.Helper()

	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}

	return !s.Empty() && s.Matches(labels.Set(d.Spec.Template.Labels))
}

// port returns the number of a port of the only container of d.
func port(d *appsv1.Deployment, p intstr.IntOrString) int32 {
	for _, port := range d.Spec.Template.Spec.Containers[0].Ports {
		if p.Type == intstr.String && port.Name == p.StrVal || p.Type == intstr.Int && port.ContainerPort == p.IntVal {
			return port.ContainerPort
		}
	}

	return 0
}

// What refers to something refers to what is there.
func TestReferences(t *testing.T) {
	proxy, echo := named[*appsv1.Deployment](t, "manifold"), named[*appsv1.Deployment](t, "echo")
	for _, d := range []*appsv1.Deployment{proxy, echo} {
		if !selects(t, d.Spec.Selector, d) {
			t.Errorf("deployment %s does not select its own pods", d.Name)
		}
		service := named[*corev1.Service](t, d.Name)
		if !selects(t, &metav1.LabelSelector{MatchLabels: service.Spec.Selector}, d) || port(d, service.Spec.Ports[0].TargetPort) == 0 {
			t.Errorf("service %s leads to no port of its deployment's pods", service.Name)
		}
		confined(t, d)
	}
	if !selects(t, named[*policyv1.PodDisruptionBudget](t, "manifold").Spec.Selector, proxy) {
		t.Error("the disruption budget is for other pods")
	}
	policy := named[*networkingv1.NetworkPolicy](t, "manifold")
	if !selects(t, &policy.Spec.PodSelector, proxy) {
		t.Error("the network policy is for other pods")
	}
	for _, rule := range policy.Spec.Ingress {
		if port(proxy, *rule.Ports[0].Port) == 0 {
			t.Errorf("the network policy has an unknown port %v", rule.Ports[0].Port)
		}
	}
	c := proxy.Spec.Template.Spec.Containers[0]
	if ready := c.ReadinessProbe.HTTPGet; ready.Path != "/readyz" || port(proxy, ready.Port) != 9901 {
		t.Errorf("readiness is asked for at %s, %v", ready.Path, ready.Port)
	}
	if c.LivenessProbe.GRPC.Port != 8080 {
		t.Errorf("liveness is asked for at port %d", c.LivenessProbe.GRPC.Port)
	}
}

// confined checks what the restricted Pod Security Standard asks for.
func confined(t *testing.T, d *appsv1.Deployment) {
	t.Helper()

	pod, c := d.Spec.Template.Spec, d.Spec.Template.Spec.Containers[0]
	if !*pod.SecurityContext.RunAsNonRoot || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: pod security context %v", d.Name, pod.SecurityContext)
	}
	if s := c.SecurityContext; *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("%s: container security context %v", d.Name, s)
	}
}

// TestKubernetesFile runs the file of the ConfigMap as the Deployment's command line names it, with one backend
// found by DNS.
func TestKubernetesFile(t *testing.T) {
	proxy, configMap, echo := named[*appsv1.Deployment](t, "manifold"), named[*corev1.ConfigMap](t, "manifold"), named[*corev1.Service](t, "echo")
	spec := proxy.Spec.Template.Spec
	c := spec.Containers[0]
	i := slices.Index(c.Args, "--config")
	if c.Args[0] != "serve" || i < 0 || spec.Volumes[0].ConfigMap.Name != configMap.Name || spec.Volumes[0].Name != c.VolumeMounts[0].Name || path.Dir(c.Args[i+1]) != c.VolumeMounts[0].MountPath {
		t.Fatalf("the command line is %q, which is not the file of the ConfigMap", c.Args)
	}
	text, ok := configMap.Data[path.Base(c.Args[i+1])]
	if !ok {
		t.Fatalf("the ConfigMap has no %s", path.Base(c.Args[i+1]))
	}
	file := load(t, text)
	if time.Duration(*spec.TerminationGracePeriodSeconds)*time.Second <= time.Duration(file.Drain.Timeout) {
		t.Errorf("drain.timeout %v is not less than the pod's %ds", file.Drain.Timeout, *spec.TerminationGracePeriodSeconds)
	}
	target := fmt.Sprintf("dns:///%s:%d", echo.Name, echo.Spec.Ports[0].Port)
	if echo.Spec.ClusterIP != corev1.ClusterIPNone || !strings.Contains(text, target) {
		t.Errorf("%s, which the headless Service is, is not in\n%s", target, text)
	}

	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend := sample.Start(lis, sample.Options{Name: "pod"})
	defer backend.Stop()
	_, number, _ := net.SplitHostPort(lis.Addr().String())
	run(t, load(t, strings.NewReplacer(target, "dns:///localhost:"+number, `":9901"`, "127.0.0.1:0", `":8080"`, "127.0.0.1:0", "delay: 5s", "delay: 1ms").Replace(text)))
}

// load reads a configuration file's text.
func load(t *testing.T, text string) *config.Config {
	t.Helper()

	name := filepath.Join(t.TempDir(), "manifold.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := config.Load(name)
	if err != nil {
		t.Fatal(err)
	}

	return file
}

// run starts a daemon and makes a call through its frontend "public".
func run(t *testing.T, file *config.Config) {
	t.Helper()

	d, err := daemon.New(daemon.Config{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	defer func() {
		if err := d.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}()
	addr, _ := d.AddrOf("public")
	conn, err := grpc.NewClient("passthrough:///"+addr.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	resp, err := samplepb.NewEchoServiceClient(conn).Echo(ctx, &samplepb.EchoRequest{Text: "hello"})
	if err != nil || resp.GetText() != "hello" {
		t.Errorf("answer %v, %v", resp, err)
	}
}
