// The service's public interface, and nothing else: whatever the page can do, a program can.

let key = null; // in memory alone
let asking = null; // the dialog that is open, so that calls made together ask once

/** What the service says is wrong: its own words, which name the remedy. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** One call; resolves to its Response. */
export async function call(path, { body = null, type = "application/json", accept = "application/json", signal } = {}) {
  const sent = body !== null && type === "application/json" && typeof body !== "string" ? JSON.stringify(body) : body;
  for (;;) {
    const used = key;
    const headers = { Accept: accept };
    if (sent !== null && type) headers["Content-Type"] = type;
    if (used) headers.Authorization = `Bearer ${used}`;
    let answer;
    try {
      answer = await fetch(path, { method: sent === null ? "GET" : "POST", body: sent, headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "The service does not answer. Is it running, and is this machine on its network?");
    }
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    const said = new Problem(answer.status, problem.detail ?? `The service answered with status ${answer.status}.`);
    if (answer.status !== 401) throw said;
    if (key === used && !(await askForKey(said.message))) throw said;
  }
}

export const json = async (path, options) => (await call(path, options)).json();

/** Status and text of the metrics; a key of a user may not be enough for it, which is no reason to ask for another. */
export async function metrics() {
  const answer = await fetch("metrics", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  return { status: answer.status, text: await answer.text() };
}

function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const value = document.getElementById("key-value");
    document.getElementById("key-why").textContent = reason;
    value.value = "";
    dialog.addEventListener("close", () => {
      asking = null;
      const given = dialog.returnValue === "use" && value.value.trim();
      value.value = "";
      if (given) key = given;
      resolve(Boolean(given));
    }, { once: true });
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}
