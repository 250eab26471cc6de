// Calls of the service's public interface. The page uses nothing else, so a program can do all that the page does.

let key = null; // in memory only
let prompt = null; // the open key dialog, shared by simultaneous calls

/** An error of the service; `message` names the remedy. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Call the service, asking for a key if it needs one. Resolves to the Response; throws a Problem. */
export async function call(path, { body = null, type = "application/json", accept = "application/json", signal } = {}) {
  const isObject = body !== null && type === "application/json" && typeof body !== "string";
  const content = isObject ? JSON.stringify(body) : body;
  for (;;) {
    const usedKey = key;
    const headers = { Accept: accept, ...authorization() };
    if (content !== null && type) headers["Content-Type"] = type;
    let response;
    try {
      response = await fetch(path, { method: content === null ? "GET" : "POST", body: content, headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "The service does not answer. Check that it is running and that this machine is online.");
    }
    if (response.ok) return response;
    const { detail } = await response.json().catch(() => ({}));
    const problem = new Problem(response.status, detail ?? `The service answered with status ${response.status}.`);
    if (response.status !== 401) throw problem;
    if (key === usedKey && !(await askForKey(problem.message))) throw problem;
  }
}

export const json = async (path, options) => (await call(path, options)).json();

/** Status and text of the metrics. Never asks for a key: a user's key may be valid and still not open them. */
export async function metrics() {
  const response = await fetch("metrics", { headers: authorization() });
  return { status: response.status, text: await response.text() };
}

const authorization = () => (key ? { Authorization: `Bearer ${key}` } : {});

function askForKey(reason) {
  prompt ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const field = document.getElementById("key-value");
    document.getElementById("key-reason").textContent = reason;
    field.value = "";
    dialog.addEventListener("close", () => {
      prompt = null;
      const entered = dialog.returnValue === "use" && field.value.trim();
      field.value = "";
      if (entered) key = entered;
      resolve(Boolean(entered));
    }, { once: true });
    dialog.returnValue = "";
    dialog.showModal();
  });
  return prompt;
}
