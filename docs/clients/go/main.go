// Posts alerts to Tocsin, handles them, and follows the stream. Only the standard library is needed.
//
//	client                                 shows each operation once, then follows
//	client post                            posts an alert for each job that failed, a JSON object a line of standard input
//	client follow CONSUMER TOPIC [AFTER]   handles the events of a topic
package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	base   = os.Getenv("TOCSIN_URL")
	secret = []byte(os.Getenv("TOCSIN_JWT_SECRET"))
	rest   = &http.Client{Timeout: 30 * time.Second}
	stream = &http.Client{} // Its Timeout would end the stream: follow() has one of its own.
)

// Error is a refusal: a problem document of RFC 9457.
type Error struct {
	Status int
	Code   string
	Detail string
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Detail) }

type Alert struct {
	ID       string `json:"id"`
	Seq      int64  `json:"seq"`
	Status   string `json:"status"`
	StatusBy string `json:"status_by"`
	Title    string `json:"title"`
	Topic    string `json:"topic"`
	Severity string `json:"severity"`

	Attributes struct {
		Seconds float64 `json:"seconds"`
	} `json:"attributes"`
}

type NewAlert struct {
	Title          string `json:"title"`
	Topic          string `json:"topic,omitempty"`
	Severity       string `json:"severity,omitempty"`
	Attributes     any    `json:"attributes,omitempty"`
	IdempotencyKey string `json:"idempotency_key,omitempty"`
}

// Failed is a job that failed: an item of the queue.
type Failed struct {
	Job string `json:"job"`
	Run int    `json:"run"`
}

type Result struct {
	Status int    `json:"status"`
	ID     string `json:"id"`
	Seq    int64  `json:"seq"`
	Code   string `json:"code"`
}

type Frame struct {
	Type             string  `json:"type"`
	Connection       string  `json:"connection"`
	HeartbeatSeconds float64 `json:"heartbeat_seconds"`
	Seq              int64   `json:"seq"`
	Cursor           string  `json:"cursor"`
	Kind             string  `json:"kind"`
	Alert            Alert   `json:"alert"`
	Reason           string  `json:"reason"`
}

// Token mints a token that is valid for five minutes.
func token() string {
	now := time.Now().Unix()
	claims, _ := json.Marshal(map[string]any{
		"sub": "go", "iss": "tocsin", "aud": "tocsin", "iat": now, "exp": now + 300,
		"scope": "alerts:write alerts:read alerts:manage",
	})
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(claims)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil))
}

// --8<-- [start:post]

// PostAll posts an alert for each job that failed.
func postAll(queue <-chan Failed) error {
	for failed := range queue {
		alert := NewAlert{
			Title: failed.Job + " failed", Topic: "jobs." + failed.Job, Severity: "error", Attributes: failed,
		}
		key := fmt.Sprintf("%s/%d", failed.Job, failed.Run) // What happened; the same in each attempt.
		var posted Alert
		var refusal *Error
		switch err := call("POST", "/v1/alerts", key, alert, &posted); {
		case err == nil:
			fmt.Println("stored", posted.Seq) // Now remove it from the queue.
		case errors.As(err, &refusal) && refusal.Status != 401 && refusal.Status != 403:
			fmt.Println("refused", refusal.Status, refusal.Code) // Put it aside.
		default:
			return err // The token is wrong, and no alert would be stored.
		}
	}
	return nil
}

// Call sends a request until it is answered or refused, and decodes the answer. Nothing is stored twice: alerts have
// their keys, and an action that is repeated changes nothing.
func call(method, path, key string, body, answer any) error {
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return err
		}
	}
	for attempt := 0; ; attempt++ {
		wait, err := send(method, path, key, content, answer)
		if wait < 0 {
			return err
		}
		log.Print("again: ", err)
		time.Sleep(wait)
		backOff(attempt)
	}
}

// Send sends a request once, and returns how long to wait before it is sent again; negative: do not.
func send(method, path, key string, content []byte, answer any) (time.Duration, error) {
	request, err := http.NewRequest(method, base+path, bytes.NewReader(content))
	if err != nil {
		return -1, err
	}
	request.Header.Set("Authorization", "Bearer "+token())
	if content != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := rest.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	if response.StatusCode < 300 {
		return -1, json.Unmarshal(read, answer)
	}
	refusal := refused(response, read)
	if !slices.Contains([]int{429, 502, 503, 504}, response.StatusCode) {
		return -1, refusal
	}
	seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
	return time.Duration(seconds) * time.Second, refusal
}

// BackOff waits for a random time that doubles with each attempt, up to 30 seconds.
func backOff(attempt int) {
	longest := min(time.Second<<min(attempt, 5), 30*time.Second)
	time.Sleep(time.Duration(rand.Int63n(int64(longest))))
}

// --8<-- [end:post]

// Refused decodes a problem document; what a proxy answers in its stead has no code.
func refused(response *http.Response, body []byte) *Error {
	refusal := &Error{Detail: response.Status}
	_ = json.Unmarshal(body, refusal)
	refusal.Status = response.StatusCode
	return refusal
}

// List returns the alerts of a topic, newest first, over all pages.
func list(topic string) ([]Alert, error) {
	var alerts []Alert
	query := url.Values{"topic": {topic}, "limit": {"2"}}
	for {
		var page struct {
			Alerts []Alert `json:"alerts"`
			Next   string  `json:"next"`
		}
		if err := call("GET", "/v1/alerts?"+query.Encode(), "", nil, &page); err != nil {
			return nil, err
		}
		alerts = append(alerts, page.Alerts...)
		if page.Next == "" {
			return alerts, nil
		}
		query.Set("cursor", page.Next)
	}
}

// --8<-- [start:follow]

// Final are the reasons of a close after which reconnecting does not help.
var final = []string{
	"scope_missing", "topic_forbidden", "origin_forbidden", "consumer_limit", "kicked",
	"invalid_request", "bad_message", "binary_message", "invalid_utf8", "message_too_big",
}

// Follow calls handle with each event of a topic, over as many connections as it takes. Without a cursor in after it
// begins where the consumer ended.
func follow(consumer, topic, after string, handle func(Frame)) error {
	query := url.Values{"consumer": {consumer}, "topic": {topic}}
	if after != "" {
		query.Set("after", after)
	}
	for attempt := 0; ; attempt++ {
		reached, err := followOnce(query, handle)
		if refusal := (*Error)(nil); errors.As(err, &refusal) && slices.Contains(final, refusal.Code) {
			return err
		}
		log.Print("reconnecting: ", err)
		if reached {
			attempt = 0
		}
		backOff(attempt)
	}
}

// FollowOnce follows over one connection, keeps the cursor in query, and returns whether it was opened.
func followOnce(query url.Values, handle func(Frame)) (bool, error) {
	request, err := http.NewRequest("GET", base+"/v1/events?"+query.Encode(), nil)
	if err != nil {
		return false, err
	}
	request.Header.Set("Authorization", "Bearer "+token())
	request.Header.Set("Accept", "text/event-stream")
	response, err := stream.Do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(response.Body)
		return false, refused(response, body)
	}

	silence := time.Minute
	silent := time.AfterFunc(silence, func() { response.Body.Close() })
	defer silent.Stop()
	lines := bufio.NewReader(response.Body) // A bufio.Scanner ends at a line of 64 KiB, without Buffer().
	var connection string
	var handled, acknowledged int64
	var at time.Time
	for {
		silent.Reset(silence)
		line, err := lines.ReadString('\n')
		silent.Stop() // The work may take longer.
		if err != nil {
			return connection != "", err
		}
		data, found := strings.CutPrefix(line, "data: ")
		if !found {
			continue // An id, which is the cursor of the frame, or the empty line between frames.
		}
		var frame Frame
		if err := json.Unmarshal([]byte(data), &frame); err != nil {
			return true, err
		}
		switch frame.Type {
		case "welcome":
			connection = frame.Connection
			silence = time.Duration(2.5 * frame.HeartbeatSeconds * float64(time.Second))
		case "event":
			handle(frame)
			handled = frame.Seq
		case "gap", "reset":
			log.Print("load the list of alerts: ", data)
		case "close":
			return true, &Error{Code: frame.Reason, Detail: "the stream was closed"}
		}
		if frame.Cursor != "" {
			query.Set("after", frame.Cursor)
		}
		if handled > acknowledged && time.Since(at) > time.Second { // The next heartbeat brings the rest.
			ack := map[string]any{"connection": connection, "seq": handled}
			if err := call("POST", "/v1/events/ack", "", ack, &struct{}{}); err != nil {
				return true, err
			}
			acknowledged, at = handled, time.Now()
		}
	}
}

// --8<-- [end:follow]

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 1 && arguments[0] == "post":
		return postAll(failures(os.Stdin))
	case len(arguments) >= 3 && arguments[0] == "follow":
		return follow(arguments[1], arguments[2], strings.Join(arguments[3:], ""), work)
	default:
		return tour()
	}
}

// Failures yields the jobs that failed.
func failures(lines io.Reader) <-chan Failed {
	queue := make(chan Failed)
	go func() {
		defer close(queue)
		for decoder := json.NewDecoder(lines); ; {
			var failed Failed
			if err := decoder.Decode(&failed); err != nil {
				return
			}
			queue <- failed
		}
	}()
	return queue
}

// Work takes as long as the job says.
func work(event Frame) {
	time.Sleep(time.Duration(event.Alert.Attributes.Seconds * float64(time.Second)))
	fmt.Println("event", event.Seq, event.Kind, event.Alert.Title)
}

// Tour shows each operation once.
func tour() error {
	// The key names what happened, so that a second run of the program does not post it again.
	var posted Alert
	alert := NewAlert{Title: "Backup failed", Topic: "jobs.backup", Severity: "error"}
	if err := call("POST", "/v1/alerts", "backup-2026-11-21", alert, &posted); err != nil {
		return err
	}
	fmt.Println("posted", posted.Seq)

	var batch struct {
		Results []Result `json:"results"`
	}
	alerts := []NewAlert{
		{Title: "Disk is 91 % full", Topic: "jobs.backup", IdempotencyKey: "disk-91"},
		{Title: "Disk is 97 % full", Topic: "jobs.backup", IdempotencyKey: "disk-97"},
		{Title: "", Topic: "jobs.backup"},
	}
	if err := call("POST", "/v1/alerts/batch", "", alerts, &batch); err != nil {
		return err
	}
	for _, result := range batch.Results {
		fmt.Println("batch", result.Status, result.Code)
	}

	all, err := list("jobs.backup")
	if err != nil {
		return err
	}
	for _, one := range all {
		fmt.Println("listed", one.Title)
	}

	var taken Alert
	if err := call("POST", "/v1/alerts/"+posted.ID+"/acknowledge", "", nil, &taken); err != nil {
		return err
	}
	fmt.Println("status", taken.Status, taken.StatusBy)

	var refusal *Error
	err = call("POST", "/v1/alerts", "title-1", NewAlert{Title: "A title", Topic: "Not a topic"}, &posted)
	if !errors.As(err, &refusal) {
		return fmt.Errorf("not refused: %w", err)
	}
	fmt.Println("refused", refusal.Status, refusal.Code)

	return follow("tour", "jobs.backup", "0", work)
}
